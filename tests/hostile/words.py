"""Words of command lines: names, numbers, settings, places."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import run_hyperopt
import validate_test_submission
from download.__main__ import main as download
from ensembles.__main__ import main as ensembles
from models.cellnet.__main__ import main as cellnet
from models.cellspike.__main__ import main as cellspike
from models.ndt.__main__ import main as ndt
from models.xtcav.__main__ import main as xtcav
from search_spaces.__main__ import main as search_spaces
from studies.__main__ import main as studies
from tests.hostile import Case

BAD_NAMES = {
    "empty": "",
    "dot": ".",
    "dots": "..",
    "hidden": ".x",
    "dash": "-x",
    "blank": "  ",
    "newline": "a\nb",
    "bell": "a\x07",
    "escape": "\x1b[31mred",
    "delete": "a\x7f",
    "long": "x" * 101,
    "long in bytes": "\U0001f600" * 60,
    "backslash": "a\\b",
    "half a character": "a\ud800",
    "bytes": os.fsdecode(b"a\xff"),
    "right to left": "a\u202eb",
    "no width": "a\u200bb",
    "line separator": "a\u2028b",
    "tab": "a\tb",
    "ends blank": "a ",
}
SPACE = """
family: ndt
data: {{path: {data}}}
fixed: {{MODEL.NUM_LAYERS: 1, MODEL.HIDDEN_SIZE: 16, TRAIN.NUM_UPDATES: 6}}
space: {{MODEL.DROPOUT: {{uniform: [0.1, 0.5]}}, TRAIN.LR.INIT: {{loguniform: [1.0e-3, 1.0e-2]}}}}
"""


def search(spikes: Path, folder: Path, *words: str, space: str = SPACE) -> Callable[[], int]:
    """A search that would begin, were it not for the words."""
    file = folder / "tiny.yaml"
    file.write_text(space.format(data=spikes))
    given = [] if "--study" in words else ["--study", str(folder / "s")]
    return partial(run_hyperopt.main, [str(file), *given, "--no-ensemble", "--samples", "2", *words])


OPTIONS: dict[str, tuple[str, ...]] = {
    "no samples": ("--samples", "0"),
    "negative samples": ("--samples", "-3"),
    "endless samples": ("--samples", "1" + "0" * 30),
    "nothing kept": ("--keep", "0"),
    "negative seed": ("--seed", "-1"),
    "huge seed": ("--seed", "9" * 400),
    "no holdout": ("--holdout", "0"),
    "all held out": ("--holdout", "1"),
    "holdout no number": ("--holdout", "nan"),
    "nearly all held out": ("--holdout", "0.9999"),
    "objective": ("--objective", "beauty"),
    "searcher": ("--searcher", "../skopt"),
    "scheduler": ("--scheduler", ""),
    "no workers": ("--workers", "0"),
    "many workers": ("--workers", "100000"),
    "no cpus": ("--cpus-per-trial", "0"),
    "cpus no number": ("--cpus-per-trial", "nan"),
    "endless cpus": ("--cpus-per-trial", "inf"),
    "negative gpus": ("--gpus-per-trial", "-1"),
    "gpus no number": ("--gpus-per-trial", "nan"),
    "gpus that are not here": ("--gpus-per-trial", "512"),
    "no ranks": ("--ranks", "0"),
    "ranks of a family that has none": ("--ranks", "2"),
    "endless ranks": ("--ranks", "9" * 40),
    "device": ("--device", "cuda:7"),
    "device of another kind": ("--device", "tpu"),
    "device in a path": ("--device", "/dev/null"),
    "batch": ("--batch", "0"),
    "rule": ("--rule", "best"),
    "checkpoint seconds": ("--checkpoint-seconds", "-1"),
    "checkpoint seconds no number": ("--checkpoint-seconds", "nan"),
    "warm start nowhere": ("--warm-start", "gone.csv"),
    "warm start from a folder": ("--warm-start", "/"),
    "warm start from a device": ("--warm-start", "/dev/zero"),
    "family": ("--family", "xtcav"),
    "family in a path": ("--family", "../../etc"),
    "family of code": ("--family", "os.system"),
    "space nowhere": ("--space", "gone.json"),
    "config nowhere": ("--config", "gone.yaml"),
    "config of a device": ("--config", "/dev/urandom"),
    "init nowhere": ("--set", "INIT=gone/t.best"),
    "init without a snapshot": ("--set", "INIT=x"),
    "init upwards": ("--set", "INIT=../../../etc/passwd"),
    "study in a file": ("--study", "/dev/null/s"),
    "study in a long path": ("--study", "/tmp/" + "x" * 300 + "/s"),
    "study of no user": ("--study", "~nobodyatall/s"),
}
SETTINGS = [
    "X",
    "=1",
    "MODEL.NUM_LAYERS",
    "MODEL.NUM_LAYERS=",
    "MODEL.NUM_LAYERS=two",
    "MODEL.NUM_LAYERS=0",
    "MODEL.NUM_LAYERS=-4",
    "MODEL.NUM_LAYERS=1.5",
    "MODEL.NUM_LAYERS=1000000",
    "MODEL.NUM_LAYERS=" + "9" * 300,
    "MODEL.NUM_LAYERS=0x" + "f" * 5000,
    "MODEL.NUM_LAYERS=" + "9" * 5000,
    "MODEL.NUM_LAYERS=.inf",
    "MODEL.NUM_LAYERS=.nan",
    "MODEL.NUM_LAYERS=true",
    "MODEL.NUM_LAYERS=[1]",
    "MODEL.NUM_LAYERS={a: 1}",
    "MODEL.NUM_LAYERS=2020-01-01",
    "MODEL.NUM_LAYERS=!!binary aGk=",
    "MODEL.NUM_LAYERS=!!python/object/apply:os.system [id]",
    "MODEL.NUM_LAYERS=&a [*a]",
    "MODEL.NUM_LAYERS=" + "[" * 4000,
    "MODEL.NUM_LAYERS=1" + ":1" * 4000,
    "MODEL.HIDDEN_SIZE=1000000000",
    "MODEL.EMBED_DIM=100000",
    "MODEL.NUM_HEADS=70000",
    "MODEL.ACTIVATION=tanh",
    "MODEL.ACTIVATION=[relu]",
    "MODEL.ACTIVATION=" + "r" * 2000,
    "MODEL.LOGRATE=1",
    "MODEL.NO_SUCH=1",
    "model.num_layers=1",
    "TRAIN.BATCH_SIZE=1e30",
    "TRAIN.LR.INIT=-1",
    "TRAIN.LR.INIT=1e999",
    "trial_id=1",
    "INIT=[1]",
    "a\nb=1",
    "\x1b[2J=1",
    "MODEL.DROPOUT=2",
    'MODEL.HIDDEN_SIZE="a\\0b"',
]


def cases(spikes: Path) -> Iterator[Case]:
    for name, bad in BAD_NAMES.items():
        yield Case("names: --study", name, lambda folder, bad=bad: search(spikes, folder, f"--study={bad}"))
        below = f"--study=sub/{bad}"
        if name not in ("empty", "dot"):
            yield Case("names: --study PATH", name, lambda folder, below=below: search(spikes, folder, below))
        for verb in (("show",), ("clean", "--all", "--yes")):
            yield Case("names: studies", f"{verb[0]} {name}", lambda _, bad=bad, v=verb: _after(studies, v, bad))
        yield Case("names: ensembles", name, lambda _, bad=bad: _after(ensembles, ("show",), bad))
    for name, bad in {**BAD_NAMES, "path": "/../x", "up": "/../../x"}.items():
        if name not in ("dash", "hidden", "dot", "dots", "blank", "ends blank") or name == "ends blank":
            yield Case("names: --suffix", name, lambda folder, bad=bad: _imported(folder, bad))
    for name, bad in {
        "empty": "",
        "blank": "  ",
        "a file": "tiny.yaml",
        "a device": "/dev/null",
        "in a file": "/dev/null/x",
    }.items():
        yield Case("names: --into", name, lambda folder, bad=bad: _into(folder, bad))
    for name, words in OPTIONS.items():
        yield Case("options", name, lambda folder, words=words: search(spikes, folder, *words))
    for number, word in enumerate(SETTINGS):
        shown = f"{number} {word[:24]!r}"
        yield Case("--set", shown, lambda folder, word=word: search(spikes, folder, f"--set={word}"))
    yield Case(
        "options",
        "all is fixed",
        lambda folder: search(spikes, folder, "--set", "MODEL.DROPOUT=0.1", "--set", "TRAIN.LR.INIT=0.01"),
    )
    for name, call in _others().items():
        yield Case("options of other commands", name, lambda folder, call=call: call)


def _after(main: Callable[[list[str]], int], verb: tuple[str, ...], word: str) -> Callable[[], int]:
    return partial(main, [*verb, "--", word])


def _imported(folder: Path, suffix: str) -> Callable[[], int]:
    place = folder / "mc_maze_small"
    place.mkdir()
    (place / "models.csv").write_text(",trial_id,val_ckpt,co-bps\n0,a1,best,0.3\n")
    return partial(ensembles, ["import", str(folder), "--family", "ndt", f"--suffix={suffix}"])


def _into(folder: Path, into: str) -> Callable[[], int]:
    (folder / "tiny.yaml").write_text("x")
    return partial(search_spaces, ["generate", "--into", into])


def _others() -> dict[str, Callable[[], int]]:
    def words(main: Callable[..., Any], *given: str) -> Callable[[], int]:
        return partial(main, list(given))

    return {
        "no dataset": words(run_hyperopt.main),
        "unknown dataset": words(run_hyperopt.main, "mc_mazes"),
        "dataset of a path": words(run_hyperopt.main, "../../etc/passwd"),
        "dataset of a long name": words(run_hyperopt.main, "x" * 5000),
        "data nowhere": words(run_hyperopt.main, "--data", "gone.h5"),
        "data of a folder": words(run_hyperopt.main, "--data", "/"),
        "data of no user": words(run_hyperopt.main, "--data", "~nobodyatall/x.h5"),
        "data of a long name": words(run_hyperopt.main, "--data", "x" * 5000),
        "data of a device": words(run_hyperopt.main, "--data", "/dev/zero"),
        "data in a file": words(run_hyperopt.main, "--data", "/dev/null/x.h5"),
        "xtcav nowhere": words(run_hyperopt.main, "--family", "xtcav", "--data", "gone*.h5"),
        "cellspike nowhere": words(run_hyperopt.main, "--family", "cellspike", "--data", "gone"),
        "cellnet nowhere": words(run_hyperopt.main, "--family", "cellnet", "--data", "gone"),
        "download unknown": words(download, "data", "mc_mazes"),
        "download family": words(download, "list", "--family", "x"),
        "download from nowhere": words(download, "checkpoints", "--from-file", "gone.zip"),
        "download from a device": words(download, "checkpoints", "--from-file", "/dev/zero", "--quiet"),
        "validate unknown": words(validate_test_submission.main, "x", "gone.h5"),
        "validate nowhere": words(validate_test_submission.main, "mc_maze", "gone.h5"),
        "prepare unknown": words(ndt, "prepare", "../x"),
        "prepare bins": words(ndt, "prepare", "mc_maze", "--bin-ms", "7"),
        "describe nowhere": words(ndt, "describe", "gone.h5"),
        "score nowhere": words(ndt, "score", "gone.h5", "--target", "gone.h5"),
        "checkpoint nowhere": words(ndt, "checkpoint", "gone.pth"),
        "ensemble nowhere": words(ensembles, "predict", "gone", "x.h5", "-o", "y.h5"),
        "import nowhere": words(ensembles, "import", "gone.zip"),
        "import family": words(ensembles, "import", "gone.zip", "--family", "xtcav"),
        "build nowhere": words(ensembles, "build", "gone", "--rule", "topn"),
        "build device": words(ensembles, "build", "gone", "--device", "cuda:0"),
        "build batch": words(ensembles, "build", "gone", "--batch", "-1"),
        "score family": words(ensembles, "score", "gone", "--family", "x"),
        "list family": words(studies, "list", "--family", "ndt2"),
        "spaces family": words(search_spaces, "generate", "--family", "xtcav"),
        "plan setting": words(xtcav, "plan", "--set", "WIDTH=-1"),
        "plan image": words(xtcav, "plan", "--image", "axb", "--threads", "0"),
        "plan huge image": words(xtcav, "plan", "--image", "9999999999x9999999999", "--threads", "0"),
        "plan classes": words(xtcav, "plan", "--classes", "-4", "--threads", "0"),
        "scan nowhere": words(xtcav, "scan", "gone.h5"),
        "scan key": words(xtcav, "scan", "gone.h5", "--data", "x=1"),
        "cellspike describe nowhere": words(cellspike, "describe", "gone.h5"),
        "cellspike design nowhere": words(cellspike, "design", "gone.hpar.yaml"),
        "cellspike pack nowhere": words(cellspike, "pack", "--conf", "gone.yaml"),
        "cellspike meta nowhere": words(cellspike, "meta", "gone"),
        "cellnet describe nowhere": words(cellnet, "describe", "gone.npz"),
        "cellnet train nowhere": words(cellnet, "train", "gone.yaml"),
        "cellnet join nothing": words(cellnet, "join", ".", "--tpcs", "a"),
        "cellnet tile sizes": words(cellnet, "tile", ".", "out", "--tpc", "1", "--downsample", "0,0,0"),
        "cellnet tile detector": words(cellnet, "tile", ".", "out", "--tpc", "1", "--detector", "gone.yaml"),
    }


def over_inputs(study: Path, data: Path) -> Iterator[Case]:
    """Predictions over what they are made from."""

    def made(folder: Path, link: Callable[[Path, Path], None] | None, out: str) -> Callable[[], int]:
        shutil.copytree(study, folder / "study")
        given = folder / "data.npz"
        shutil.copy(data, given)
        if link is not None:
            link(given, folder / "out.h5")
        return partial(ensembles, ["predict", str(folder / "study"), str(given), "-o", out, "--overwrite"])

    def hard(target: Path, at: Path) -> None:
        os.link(target, at)

    def soft(target: Path, at: Path) -> None:
        at.symlink_to(target)

    def relative(target: Path, at: Path) -> None:
        at.symlink_to(Path("..") / target.parent.name / target.name)

    for name, link, out in (
        ("itself", None, "data.npz"),
        ("by another way", None, "./study/../data.npz"),
        ("hard link", hard, "out.h5"),
        ("symbolic link", soft, "out.h5"),
        ("relative link", relative, "out.h5"),
        ("ensemble", None, "study/ensemble/ensemble.json"),
        ("member", None, "study/ensemble/new.h5"),
        ("a device", None, "/dev/null"),
        ("a folder's root", None, "/"),
        ("long", None, "x" * 300 + ".h5"),
        ("in a file", None, "data.npz/x.h5"),
        ("empty", None, ""),
        ("control", None, "a\nb.h5"),
    ):
        yield Case("predict over its input", name, lambda folder, link=link, out=out: made(folder, link, out))
