"""The ensemble's folder: all that is needed to predict, and to see where it came from.

ensemble/ensemble.json                       members, weights, scores, provenance
         members/<trial>.<snapshot>.safetensors
         validation.h5                       what it predicts for the validation data
         checksums.sha256                    of all of these, as `sha256sum -c` reads it
         submission.h5                       where a benchmark wants one
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ensembles.members import Candidate, restore
from ensembles.predict import combine, reason
from ground import hdf5
from ground.documents import read_json, read_text
from ground.errors import BadInput
from ground.files import sha256, sync_folder, sync_tree, write_json, write_text
from ground.hdf5 import reading_hdf5
from ground.limits import shown
from ground.names import is_plain
from ground.schemas import Name, Natural, Number, Schema, Table, checked
from ground.typed import command
from models.base import Family, Place, Prediction, Predictor
from models.registry import get

FORMAT = 2
VALIDATION, SUBMISSION, _SUMS = "validation.h5", "submission.h5", "checksums.sha256"
_NEW, _OLD = ".ensemble-new-", ".ensemble-old"


def _known_format(number: int) -> int:
    if number > FORMAT:
        raise ValueError(f"the ensemble is of format {number}, written by a later version; this one knows {FORMAT}")
    return number


class _Member(Schema):
    trial_id: Name
    val_ckpt: Name
    weight: Annotated[Number, Field(gt=0)]
    score: Number | None = None
    file: str = Field(min_length=1, max_length=500)
    settings: Table = {}


class _Metric(Schema):
    name: str
    mode: Literal["max", "min"]


class _Size(Schema):
    members: Natural
    effective: Number


class _Content(Schema):
    """ensemble.json."""

    format: Annotated[int, Field(ge=1), AfterValidator(_known_format)] = FORMAT
    study: str
    family: Name
    rule: str
    metric: _Metric
    data: Table
    members: Annotated[list[_Member], Field(min_length=1, max_length=10_000)]
    scores: Table
    calibration: Table | None = None
    size: _Size
    curve: Table = {}
    left_out: dict[str, str] = {}
    files: list[Name] = []
    inputs: str | None = None
    seed: Natural | None = None


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
        return get(self.meta["family"]).of(self.meta["data"])

    def summary(self) -> dict[str, Any]:
        return {key: self.meta[key] for key in ("rule", "metric", "scores", "members")}

    def verify(self) -> None:
        """Raises: BadInput: a file is missing, was changed since it was written, or has no checksum."""
        sums = self.path / _SUMS
        if not sums.exists():
            raise BadInput(f"{sums}: missing from the ensemble")
        lines = read_text(sums).splitlines()
        known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        wanted = ["ensemble.json", *(str(m["file"]) for m in self.meta["members"]), *self.meta.get("files", [])]
        for name in wanted:
            if name not in known:
                raise BadInput(f"{self.path / name}: has no checksum in {_SUMS}")
        for name, digest in known.items():
            file = self.path / name
            if not is_plain(Path(name).name) or not _inside(file, self.path):
                raise BadInput(f"{sums}: names {shown(name)}, which is no file of the ensemble")
            if not file.is_file():
                raise BadInput(f"{file}: missing from the ensemble")
            if sha256(file) != digest:
                raise BadInput(f"{file}: changed since the ensemble was built (checksum differs)")

    def predictor(self, place: Place) -> Predictor:
        """The ensemble as one model: data -> the members' combined and calibrated prediction.

        Raises:
            BadInput: a member cannot be restored; from the predictor, the data does not fit the members.
        """
        family, weights = self.family, [float(m["weight"]) for m in self.meta["members"]]
        members = [restore(family, self.path / m["file"], place) for m in self.meta["members"]]

        def predict(data: Any) -> Prediction:
            try:
                combined = combine(family, family.predict_many(members, data, place), weights)
            except ValueError as error:
                raise BadInput(str(error)) from None
            return family.calibrated(combined, self.meta.get("calibration") or {})

        return predict

    def predict(self, data: Any, place: Place | None = None) -> Prediction:
        """The ensemble's prediction for all of `data`.

        Raises:
            BadInput: as `predictor`.
        """
        return self.predictor(place or Place())(data)

    def predict_parts(self, data: Any, place: Place) -> Iterator[tuple[Any, Prediction]]:
        """(part of the data, its prediction), in order: for data whose predictions do not fit into memory."""
        predict = self.predictor(place)
        for part in self.family.parts(data):
            yield part, predict(part)

    def validation(self) -> Prediction:
        """What it predicts for the validation data, as it was when the ensemble was built.

        Raises:
            BadInput: it is missing or damaged.
        """
        with reading_hdf5(self.path / VALIDATION) as file:
            return hdf5.arrays(file, self.path / VALIDATION)


def write(
    study_path: Path,
    family: Family,
    chosen: list[tuple[Candidate, float, Mapping[str, Any]]],
    meta: Mapping[str, Any],
    place: Place,
    validation: Iterable[tuple[Any, Prediction]],
) -> tuple[Artifact, str | None]:
    """Put an ensemble in the place of the study's last one; whoever looks sees the old or the new.

    Args:
        chosen: members with their weights and settings.
        meta: what else ensemble.json says, the study's `data` block among it.
        validation: the ensemble's prediction for the validation data, part by part.

    Returns:
        The artifact, and what the family has to say of the submission file.

    Raises:
        BadInput: a member's file has changed while the ensemble was built.
    """
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=study_path))
    try:
        (new / "members").mkdir()
        entries = []
        for candidate, weight, settings in chosen:
            file = new / "members" / f"{candidate.name}.safetensors"
            shutil.copyfile(candidate.path, file)
            if sha256(file) != candidate.sha256:
                raise BadInput(f"{candidate.path}: changed while the ensemble was built")
            entries.append({
                "trial_id": candidate.trial_id,
                "val_ckpt": candidate.val_ckpt,
                "weight": weight,
                "score": candidate.score,
                "file": f"members/{file.name}",
                "settings": dict(settings),
            })  # fmt: skip
        content = {**meta, "format": FORMAT, "family": family.name, "members": entries}
        # the plain form, whatever the family exports: it is read back
        Family.export(family, validation, new / VALIDATION, {"study": str(meta["study"]), "members": len(entries)})
        message = _submit(Artifact(new, content), place, new / SUBMISSION)
        content["files"] = [name for name in (VALIDATION, SUBMISSION) if (new / name).exists()]
        write_json(new / "ensemble.json", content)
        files = sorted(p for p in new.rglob("*") if p.is_file())
        write_text(new / _SUMS, "".join(f"{sha256(p)}  {p.relative_to(new)}\n" for p in files))
        new.chmod(0o755)
        sync_tree(new)
        _swap(study_path, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return read(study_path), message


def _submit(found: Artifact, place: Place, out: Path) -> str | None:
    """The family's submission file, if it has one. Whatever goes wrong with it is a line: the ensemble stands."""
    predictors: list[Predictor] = []

    def predict(data: Any) -> Prediction:
        if not predictors:  # most studies submit nothing: members are restored when first asked for
            predictors.append(found.predictor(place))
        return predictors[0](data)

    try:
        return found.family.submission(predict, found.meta["data"], out)
    except Exception as error:
        out.unlink(missing_ok=True)
        return f"no submission file: {reason(error)}"


def _swap(study_path: Path, new: Path) -> None:
    place, old = study_path / "ensemble", study_path / _OLD
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
        sync_folder(study_path)
    new.rename(place)
    sync_folder(study_path)
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
            meta = read_json(file)
            checked(_Content, meta, file)
            files = [str(member["file"]) for member in meta["members"]]
            if place.name == _OLD:  # a swap that was cut short between its two renames
                place = place.rename(path / "ensemble")
            for name in files:
                if not _inside(place / name, place):
                    raise BadInput(f"{file}: member file {name} lies outside the ensemble")
            return Artifact(place, meta)
    raise BadInput(f"no ensemble at {path}; build one with: {command('-m', 'ensembles', 'build', path.name)}")


def _inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def exists(study_path: Path) -> bool:
    return any((study_path / place / "ensemble.json").is_file() for place in ("ensemble", _OLD))
