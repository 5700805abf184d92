"""A study's folder: the only truth of a search. It can be read at any moment, and goes on after any death."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import AfterValidator, Field

from ground.documents import read_json
from ground.errors import BadInput
from ground.files import write_json
from ground.limits import shown
from ground.schemas import Digest, Name, Natural, Schema, Table, checked
from models.base import Family
from models.registry import get
from search_spaces import Domain, SearchSpace
from studies.data import load, load_part

FORMAT = 2
_PACKAGES = ("ray", "scikit-optimize", "torch", "numpy", "pandas", "h5py", "nlb-tools")


def _known_format(number: int) -> int:
    if number > FORMAT:
        raise ValueError(f"the study is of format {number}, written by a later version; this one knows {FORMAT}")
    return number


def _domains(space: dict[str, Any]) -> dict[str, Any]:
    for name, entry in space.items():
        try:
            Domain.from_json(entry)
        except BadInput as error:
            raise ValueError(f"{shown(name, 40)}: {error}") from None
    return space


class _Init(Schema):
    """The snapshot that every trial starts from."""

    origin: str = Field(alias="from", min_length=1)
    path: str = Field(min_length=1)
    sha256: Digest


class _Content(Schema):
    """study.json. What studies of the first versions did not have may be absent."""

    format: Annotated[int, Field(ge=1), AfterValidator(_known_format)] = FORMAT
    name: Name | None = None
    dataset: str | None = None
    family: Name
    data: Table
    fixed: Table = {}
    space: Annotated[Table, AfterValidator(_domains)]
    seed: Natural
    objective: str | None = None
    fingerprint: str | None
    holdout: Annotated[float, Field(gt=0, lt=1)] | None = None
    init: _Init | None = None
    ranks: Annotated[int, Field(ge=1, le=100_000)] | None = None
    imported: bool | None = None
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Study:
    """One search in one folder.

    Attributes:
        path: the folder.
        config: the content of study.json: family, data, fixed, space, seed, objective, fingerprint, versions.
    """

    path: Path
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def family(self) -> Family:
        return get(self.config["family"]).of(self.config["data"])

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def space(self) -> dict[str, Domain]:
        return {name: Domain.from_json(entry) for name, entry in self.config["space"].items()}

    @property
    def ranks(self) -> int:
        """Processes that train each model together."""
        return int(self.config.get("ranks") or 1)

    def load_data(self) -> Any:
        """What the study trains on and selects by, checked to be what it began with: no sample that is held out.

        Raises:
            BadInput: the data is missing, wrong, or has changed.
        """
        return self._data(held=False)

    def holdout(self) -> Any | None:
        """The data with only the validation samples that nothing of the search sees; None if there are none."""
        return self._data(held=True) if self.config.get("holdout") else None

    def _data(self, held: bool) -> Any:
        # an imported archive does not say what it was trained on: its fingerprint is None
        known = self.family, self.config["data"]
        share = self.config.get("holdout")
        if not share:
            return load(*known, "val", self.config["fingerprint"])
        return load_part(*known, self.config["fingerprint"], share, self.config["seed"], held)

    def trial_seed(self, number: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.config['seed']}/{number}".encode()).digest()[:4], "big") % 2**31

    def trial_id(self, number: int) -> str:
        return hashlib.sha256(f"{self.name}/{self.config['seed']}/{number}".encode()).hexdigest()[:8]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by whoever writes the study; gone with its process.

        Raises:
            BadInput: another process holds it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(f"study {self.name} is in use by another process ({self.path})") from None
        try:
            yield
        finally:
            lock.release()


def open_study(path: Path) -> Study:
    """An existing study.

    Raises:
        BadInput: there is none, its study.json is damaged, or of a later version.
    """
    file = path / "study.json"
    if not file.exists():
        raise BadInput(f"no study at {path}")
    config = read_json(file)
    checked(_Content, config, file)
    return Study(path, config)


def begin(
    path: Path,
    space: SearchSpace,
    fingerprint: str,
    seed: int,
    objective: str,
    holdout: float | None = None,
    init: Mapping[str, Any] | None = None,
    ranks: int = 1,
    command: Sequence[str] | None = None,
) -> tuple[Study, bool]:
    """The study at `path`: continued if it is the same search, begun if there is none.

    Args:
        fingerprint: of the data, as the family says.
        holdout: the share of validation groups that nothing sees before the end.
        init: the snapshot that every trial starts from (`studies.transfer.resolve`).
        ranks: processes that train each model together; they change its batches, so they are part of the study.
        command: the words that begin it, for its report; nothing depends on them.

    Returns:
        The study, and whether it was there already.

    Raises:
        BadInput: there is a different search under that name (which part differs is said), or another folder.
    """
    config: dict[str, Any] = {
        "format": FORMAT,
        "name": path.name,
        "dataset": space.name,
        "family": space.family,
        "data": space.data,
        "fixed": space.fixed,
        "space": {name: domain.to_json() for name, domain in space.space.items()},
        "seed": seed,
        "objective": objective,
        "fingerprint": fingerprint,
        "holdout": holdout,
        "init": None if init is None else dict(init),
        "ranks": None if ranks == 1 else ranks,
        "command": None if command is None else list(command),
        "versions": versions(),
    }
    if (path / "study.json").exists():
        study = open_study(path)
        told = {
            "family": "model family",
            "fingerprint": "data",
            "space": "search space",
            "fixed": "fixed settings",
            "seed": "seed",
            "objective": "objective",
            "holdout": "holdout",
            "init": "INIT",
            "ranks": "number of ranks",
        }
        now = json.loads(json.dumps(config))
        for key, words in told.items():
            if study.config.get(key) != now[key]:
                detail = _difference(study.config.get(key), now[key])
                raise BadInput(
                    f"study {path.name} was begun with another {words}{detail}; "
                    "choose another --study name, or --overwrite to start over"
                )
        return study, True
    if path.exists() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise BadInput(f"{path} exists and is no study; choose another --study name")
    write_json(path / "study.json", config)
    return open_study(path), False  # what a resumed run will read, so that both propose alike


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        return f" ({keys[0]}: {old.get(keys[0])} then, {new.get(keys[0])} now)" if keys else ""
    if isinstance(old, str) and len(old) > 40:
        return ""
    return f" ({old} then, {new} now)"


def remove(path: Path) -> None:
    """Delete a study, and nothing that is not one.

    Raises:
        BadInput: the folder holds no study.
    """
    if not path.exists():
        return
    if not (path / "study.json").exists() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise BadInput(f"{path} is no study; it is not deleted")
    # first the trials, last what says that this is a study: a deletion that is cut short can be repeated
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "study.json"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()


def versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
