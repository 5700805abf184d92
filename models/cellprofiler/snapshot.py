"""A trained model as a user names it: a snapshot's file, or a trial's folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ground.errors import BadInput
from ground.files import sha256
from ground.machine import available_cpus, tune_allocator
from ground.states import load_state
from models.cellprofiler import names
from models.cellprofiler.predictor import CellPredictor, restore
from models.cellprofiler.project import Project


@dataclass(frozen=True)
class Snapshot:
    """A model ready to look at cells.

    Attributes:
        path: its file.
        digest: SHA-256 of the file.
        member: the model.
        settings: complete.
    """

    path: Path
    digest: str
    member: CellPredictor
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, device: str = "cpu", batch: int | None = None) -> Snapshot:
        """Restore the model of a snapshot.

        Args:
            path: a file (.safetensors) of a trial or of an ensemble's members, or a trial's folder.
            device: "cpu" or "cuda".
            batch: cells at a time (None: the settings').

        Raises:
            BadInput: there is none, or none of this family; no such device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput("--device cuda: there is no GPU here")
        if batch is not None and batch < 1:
            raise BadInput(f"--batch {batch}: at least one cell at a time")
        file = _file(Path(path).expanduser())
        try:
            state = load_state(file)
            if state["family"] != "cellprofiler":
                raise BadInput(f"{file}: is a snapshot of family {state['family']}, not of a network on cells")
            member = restore(state["settings"], state["weights"], device, batch)
        except BadInput as error:
            raise error if str(file) in str(error) else BadInput(f"{file}: {error}") from None
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            line = (str(error).splitlines() or [""])[0][:120]
            raise BadInput(f"{file}: not a usable snapshot ({line})") from None
        return cls(file, sha256(file), member, state["settings"])

    def layers(self, asked: list[str] | None) -> tuple[str, ...]:
        """The layers that a user asks for, or the one that was best on the validation wells.

        Raises:
            BadInput: the network has no such layer.
        """
        return tuple(dict.fromkeys(names.known(self.settings, word) for word in asked or [self.member.choice.layer]))

    def fit(self, project: Project) -> None:
        """Raises BadInput where the project's crops are not what the network was trained on."""
        self.member.extractor.fit(project.box, project.channels, str(project.config_path))

    @property
    def crop(self) -> str:
        """How crops were cut that it was trained on."""
        return str(self.member.extractor.about["crop"])


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadInput(f"{path}: no such file or folder (--model)")
    found = sorted(file for file in path.glob("*.safetensors") if file.name != "last.safetensors")
    best = [file for file in found if file.name == "best.safetensors"] or found
    if len(best) != 1:
        several = f"; name one of {', '.join(file.name for file in found[:5])}" if found else ""
        raise BadInput(f"{path}: holds {len(found) or 'no'} snapshots{several} (--model)")
    return best[0]


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model, --batch, --device."""
    about = "a snapshot's .safetensors (of a trial or of an ensemble's members), or a trial's folder"
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help=about)
    parser.add_argument("--batch", type=int, help="cells at a time (default: the model's EVAL_BATCH)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def opened(given: argparse.Namespace) -> Snapshot:
    """The snapshot that they name; raises as `Snapshot.open`."""
    torch.set_num_threads(available_cpus())
    tune_allocator()
    return Snapshot.open(given.model, given.device, given.batch)
