"""The ensemble's folder: all that is needed to predict, and to see where it came from.

ensemble/ensemble.json                       members, weights, scores, provenance
         members/<trial>.<snapshot>.safetensors
         checksums.sha256                    as `sha256sum -c` reads it
         submission.h5                       where a benchmark wants one
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.members import Candidate, restore
from ground.errors import BadInput
from ground.files import sha256, write_json, write_text
from models.base import Family, Prediction
from models.registry import get

_NEW, _OLD = ".ensemble-new-", ".ensemble-old"


@dataclass(frozen=True)
class Artifact:
    """An ensemble on disk.

    Attributes:
        path: its folder.
        meta: the content of ensemble.json.
    """

    path: Path
    meta: dict[str, Any]

    @property
    def family(self) -> Family:
        return get(self.meta["family"])

    def summary(self) -> dict[str, Any]:
        return {key: self.meta[key] for key in ("rule", "metric", "scores", "members")}

    def verify(self) -> None:
        """Raises: BadInput: a file is missing or was changed since it was written."""
        for line in (self.path / "checksums.sha256").read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            file = self.path / name
            if not file.is_file():
                raise BadInput(f"{file}: missing from the ensemble")
            if sha256(file) != digest:
                raise BadInput(f"{file}: changed since the ensemble was built (checksum differs)")

    def predict(self, data: Any, device: str = "cpu") -> Prediction:
        """The ensemble's prediction for `data`.

        Raises:
            BadInput: the data does not fit the members.
        """
        members = [restore(self.family, self.path / m["file"], device) for m in self.meta["members"]]
        try:
            predicted = self.family.predict_many(members, data)
        except ValueError as error:
            raise BadInput(str(error)) from None
        return self.family.combine(predicted, [m["weight"] for m in self.meta["members"]])


def write(
    study_path: Path,
    family: Family,
    chosen: list[tuple[Candidate, float, Mapping[str, Any]]],
    meta: Mapping[str, Any],
    submission_config: Mapping[str, Any] | None = None,
) -> tuple[Artifact, str | None]:
    """Put an ensemble in the place of the study's last one; whoever looks sees the old or the new.

    Args:
        chosen: members with their weights and settings.

    Returns:
        The artifact, and what the family has to say of the submission file.
    """
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=study_path))
    try:
        (new / "members").mkdir()
        entries = []
        for candidate, weight, settings in chosen:
            file = new / "members" / f"{candidate.name}.safetensors"
            shutil.copyfile(candidate.path, file)
            entries.append({
                "trial_id": candidate.trial_id,
                "val_ckpt": candidate.val_ckpt,
                "weight": weight,
                "score": candidate.score,
                "file": f"members/{file.name}",
                "settings": dict(settings),
            })  # fmt: skip
        content = {**meta, "family": family.name, "members": entries}
        message = None
        if submission_config is not None:
            message = family.submission(Artifact(new, content).predict, submission_config, new / "submission.h5")
        write_json(new / "ensemble.json", content)
        files = sorted(p for p in new.rglob("*") if p.is_file())
        write_text(new / "checksums.sha256", "".join(f"{sha256(p)}  {p.relative_to(new)}\n" for p in files))
        new.chmod(0o755)
        _swap(study_path, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return read(study_path), message


def _swap(study_path: Path, new: Path) -> None:
    place, old = study_path / "ensemble", study_path / _OLD
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    for leftover in study_path.glob(f"{_NEW}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def read(path: Path) -> Artifact:
    """The ensemble of a study's folder, or an ensemble's own folder wherever it was copied.

    Raises:
        BadInput: there is none, or it is damaged.
    """
    for place in (path, path / "ensemble", path / _OLD):
        file = place / "ensemble.json"
        if file.is_file():
            try:
                meta = json.loads(file.read_text(encoding="utf-8"))
                if not {"family", "members", "scores"} <= set(meta):
                    raise ValueError
            except (ValueError, TypeError):
                raise BadInput(f"{file}: damaged") from None
            if place.name == _OLD:  # a swap that was cut short between its two renames
                place = place.rename(path / "ensemble")
            for member in meta["members"]:
                inside = (place / str(member["file"])).resolve()
                if not inside.is_relative_to(place.resolve()):
                    raise BadInput(f"{file}: member file {member['file']} lies outside the ensemble")
            return Artifact(place, meta)
    raise BadInput(f"no ensemble at {path}; build one with: python -m ensembles build {path.name}")


def exists(study_path: Path) -> bool:
    return any((study_path / place / "ensemble.json").is_file() for place in ("ensemble", _OLD))
