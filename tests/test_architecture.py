"""The arrows of docs/architecture.md, read from the imports of every file: they point one way."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

CODE = {"ground", "models", "search_spaces", "studies", "tuner", "ensembles", "download"}
COMMANDS = {"run_hyperopt", "validate_test_submission"}
ABOVE_MODELS = {"tuner", "ensembles", "studies", "search_spaces", "download"}
MAY_NOT = {
    "ground": CODE - {"ground"},
    "models": ABOVE_MODELS,
    "search_spaces": {"tuner", "ensembles", "studies", "download"},
    "studies": {"tuner", "ensembles", "download"},
    "tuner": {"ensembles", "download"},
    "ensembles": {"tuner"},
    "download": {"tuner", "ensembles", "studies", "search_spaces"},
}
# the shipped tests of a family read the search space that it names
EXCEPT = {("models/conformance.py", "search_spaces")}


def files() -> list[Path]:
    """Every Python file that git knows of, or would if asked to add; not the tests, benchmarks and examples."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    paths = sorted({Path(name) for name in listed if (ROOT / name).exists()})
    return [path for path in paths if path.parts[0] not in ("tests", "benchmarks", "examples")]


def imports(path: Path, source: str, top_only: bool = False) -> Iterator[str]:
    """The modules that a file imports, dotted and absolute; `from a import b` is a and a.b."""
    tree = ast.parse(source)
    package = path.parent.parts
    for node in _top(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _top(tree: ast.Module) -> Iterator[ast.stmt]:
    """What runs when the module is imported: nothing within functions, nor what only type checkers see."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def families() -> set[str]:
    return {path.parent.name for path in (ROOT / "models").glob("*/__init__.py")}


def wrong(path: Path, source: str) -> list[str]:
    """Why each import of a file runs against the design."""
    known, at, found = families(), path.parts[0].removesuffix(".py"), []
    family = path.parts[1] if at == "models" and len(path.parts) > 2 else None
    for name in dict.fromkeys(imports(path, source)):
        to = name.split(".")
        if to[-1] == "__main__" or to[0] in COMMANDS:
            found.append(f"{path} imports the command {name}")
        if to[0] in MAY_NOT.get(at, ()) and (path.as_posix(), to[0]) not in EXCEPT:
            found.append(f"{path} imports {name}")
        if to[0] != "models" or len(to) < 2:
            continue
        if to[1] in known and to[1] != family:
            found.append(f"{path} imports the family {to[1]}")
        elif family is not None and to[1] not in ("base", family):
            found.append(f"{path}: a family imports {name}")
    return found


def test_arrows_point_one_way() -> None:
    found = [line for path in files() for line in wrong(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


PLANTED = {
    "tuner to ensembles": ("tuner/setup.py", "import ensembles.select"),
    "ensembles to tuner, in a function": ("ensembles/build.py", "def f():\n    from tuner import search"),
    "a generic package to a family": ("ensembles/score.py", "from models.ndt import evaluation"),
    "a generic package to a family, from models": ("download/dandi.py", "from models import ndt"),
    "a command to a family": ("validate_test_submission.py", "from models.ndt.validation import validate"),
    "the registry to a family": ("models/registry.py", "import models.ndt"),
    "models to studies": ("models/base.py", "from studies import ledger"),
    "a family to search_spaces": ("models/ndt/templates.py", "import search_spaces"),
    "a family to the registry": ("models/ndt/family.py", "from models.registry import get"),
    "a family to the registry, from models": ("models/ndt/family.py", "from models import registry"),
    "a family's command to ensembles": ("models/ndt/__main__.py", "def f():\n    import ensembles"),
    "relative": ("models/ndt/family.py", "from ..registry import get"),
    "studies to tuner": ("studies/study.py", "from tuner.setup import resolve"),
    "a command to a command": ("tuner/setup.py", "import run_hyperopt"),
    "a module to a command": ("ensembles/build.py", "from ensembles.__main__ import main"),
    "a module to a command, from its package": ("ensembles/build.py", "from ensembles import __main__"),
    "the ground to models": ("ground/files.py", "from models.base import Family"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_import_is_found(case: str) -> None:
    name, source = PLANTED[case]
    path = Path(name)
    assert not wrong(
        path, "import ground.errors\nfrom models.base import Family\n" if path.parts[0] != "ground" else ""
    )
    assert wrong(path, source)


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that can be reached from themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name in graph and name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    return sorted(name for name in graph if name in reached(name))


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in files():
        name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        graph[name] = set(imports(path, (ROOT / path).read_text(encoding="utf-8"), top_only=True)) - {name}
    # `from package import module` names the package, too, which is not what is wanted of it
    for name, to in graph.items():
        graph[name] = {t for t in to if not any(other.startswith(f"{t}.") for other in to & graph.keys())}
    assert "models.ndt.original" in graph["models.ndt.family"]
    assert cycles(graph) == []


def test_circles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b", "os"}}) == ["b", "c"]
