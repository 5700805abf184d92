"""The checkpoints of a study as candidates for an ensemble, and how they come back to life."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ground.errors import BadInput
from ground.files import sha256
from ground.machine import available_cpus
from ground.states import load_state
from models.base import Family, Place, Predictor
from studies import ledger
from studies.results import read_card
from studies.study import Study


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may become a member.

    Attributes:
        score: its validation metric.
        path: the snapshot's file.
        sha256: what that file was when the trial wrote it.
    """

    trial_id: str
    val_ckpt: str
    score: float
    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.trial_id}.{self.val_ckpt}"

    def check(self) -> None:
        """Raises: BadInput: the file is not the one that the trial wrote."""
        if not self.path.is_file():
            raise BadInput(f"{self.path}: no such checkpoint")
        if sha256(self.path) != self.sha256:
            raise BadInput(f"{self.path}: is not what the trial wrote (its checksum differs from the one in its .json)")


def candidates(study: Study, limit: int | None = None) -> list[Candidate]:
    """A study's usable checkpoints (`ledger.usable`), best first.

    Raises:
        BadInput: there is none.
    """
    frame = ledger.usable(study, ledger.table(study))
    found = []
    for _, row in frame.head(len(frame) if limit is None else limit).iterrows():
        path = study.path / str(row["path"])
        card = read_card(path.with_suffix(".json")) or {}
        score = float(row[study.family.metric.name])
        found.append(
            Candidate(str(row["trial_id"]), str(row["val_ckpt"]), score, path, str(card.get("sha256") or "unknown"))
        )
    if not found:
        raise BadInput(f"study {study.name} has no checkpoint to build an ensemble from")
    return found


def place(device: str = "cpu", batch: int | None = None) -> Place:
    """Where members predict: all cores this process may use, and the device asked for.

    Raises:
        BadInput: there is no such device here, or no such batch.
    """
    if device not in ("cpu", "cuda"):
        raise BadInput(f"--device {device}: unknown; there are cpu, cuda")
    if batch is not None and batch < 1:
        raise BadInput(f"--batch {batch}: at least one sample at a time")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInput("--device cuda: there is no GPU here")
    return Place(device, available_cpus(), batch=batch)


def restore(family: Family, path: Path, where: Place) -> Predictor:
    """A predictor from a snapshot file.

    Raises:
        BadInput: the file is missing, damaged, or of another family.
    """
    try:
        state = load_state(path)
        if state["family"] != family.name:
            raise BadInput(f"{path}: is a checkpoint of family {state['family']}, not {family.name}")
        return family.restore(state["settings"], state["weights"], where)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such checkpoint") from None
    except BadInput as error:
        raise error if str(path) in str(error) else BadInput(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged checkpoint makes a family raise, it is one bad file
        raise BadInput(f"{path}: not a usable checkpoint ({(str(error).splitlines() or [''])[0][:120]})") from None
