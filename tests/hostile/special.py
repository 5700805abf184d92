"""What is no file: pipes, sockets, devices, folders, links that lead nowhere or in circles."""

from __future__ import annotations

import os
import socket
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
from studies.__main__ import main as studies
from tests.hostile import Case
from tests.hostile.words import search


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "folder": Path.mkdir,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "noise": lambda path: path.symlink_to("/dev/urandom"),
    "nothing": lambda path: path.symlink_to("/dev/null"),
    "leads nowhere": lambda path: path.symlink_to("gone"),
    "leads to itself": lambda path: path.symlink_to(path.name),
    "terabyte": lambda path: (path.touch(), os.truncate(path, 2**40))[1],
}


def cases(spikes: Path, study: Path) -> Iterator[Case]:
    import shutil

    def words(main: Any, *given: str) -> Callable[[Path, Path], Callable[[], int]]:
        return lambda folder, path: partial(main, [word.replace("FILE", str(path)) for word in given])

    def option(name: str) -> Callable[[Path, Path], Callable[[], int]]:
        return lambda folder, path: search(spikes, folder, name, str(path))

    def within(main: Any, file: str) -> Callable[[Path, Path], Callable[[], int]]:
        def call(folder: Path, path: Path) -> Callable[[], int]:
            shutil.copytree(study, folder / "study")
            (folder / "study" / file).unlink()
            os.rename(path, folder / "study" / file)
            return partial(main, ["show", str(folder / "study")])

        return call

    readers: dict[str, tuple[str, Callable[[Path, Path], Callable[[], int]]]] = {
        "search space": ("x.yaml", words(run_hyperopt.main, "FILE")),
        "data of ndt": ("x.h5", words(run_hyperopt.main, "--data", "FILE", "--family", "ndt")),
        "data of xtcav": ("x.h5", words(xtcav, "scan", "FILE")),
        "data of cellspike": ("x.h5", words(cellspike, "describe", "FILE")),
        "data of cellnet": ("BeamCosmic_001_xy.npz", words(cellnet, "describe", "FILE")),
        "described": ("x.h5", words(ndt, "describe", "FILE")),
        "submission": ("x.h5", words(ndt, "score", "FILE", "--target", "FILE")),
        "validated": ("x.h5", words(validate_test_submission.main, "mc_maze", "FILE")),
        "warm start": ("x.csv", option("--warm-start")),
        "published space": ("x.json", option("--space")),
        "template": ("x.yaml", option("--config")),
        "zip": ("x.zip", words(ensembles, "import", "FILE")),
        "zip of a download": ("x.zip", words(download, "checkpoints", "--from-file", "FILE", "--quiet")),
        "checkpoint": ("x.pth", words(ndt, "checkpoint", "FILE", "--dataset", "mc_maze_small")),
        "design": ("x.hpar.yaml", words(cellspike, "design", "FILE")),
        "configuration": ("x.yaml", words(cellnet, "train", "FILE")),
        "plan": ("x.yaml", words(xtcav, "plan", "--config", "FILE", "--threads", "0")),
        "study": ("study.json", within(studies, "study.json")),
        "trial": ("config.json", within(studies, "trials/t00/config.json")),
        "card": ("best.json", within(studies, "trials/t00/best.json")),
        "ensemble's sums": ("checksums.sha256", within(ensembles, "ensemble/checksums.sha256")),
    }
    # an unpacked archive; a trial or snapshot whose file leads nowhere is as one without
    nowhere = [(kind, reader) for kind in ("leads nowhere", "leads to itself") for reader in ("trial", "card")]
    taken = {("folder", "zip"), *nowhere}
    for kind, make in KINDS.items():
        for reader, (name, call) in readers.items():
            if (kind, reader) in taken:
                continue

            def made(folder: Path, make: Any = make, name: str = name, call: Any = call) -> Callable[[], int]:
                path = folder / name
                if make is _socket:
                    before = os.getcwd()
                    os.chdir(folder)
                    try:
                        make(path)
                    finally:
                        os.chdir(before)
                else:
                    make(path)
                return call(folder, path)  # type: ignore[no-any-return]

            yield Case(f"no files: {kind}", reader, made)
