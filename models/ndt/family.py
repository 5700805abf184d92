"""The NDT as Concert sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ground.errors import BadInput
from models.base import Family, Metric, Place, Prediction, Predictor, Source
from models.ndt import config as settings
from models.ndt import original, prepare
from models.ndt.data import SpikeData, fingerprint, load, open_h5, shape
from models.ndt.fits import refuse_unfit
from models.ndt.folders import FOLDERS, folder
from models.ndt.learner import NDTLearner
from models.ndt.learner import Predictor as SpikePredictor
from models.ndt.metrics import CoBps
from models.ndt.network import build
from models.ndt.submission import submission_arrays, write_submission


class NDTFamily(Family):
    name = "ndt"
    metric = Metric("co-bps", "max", "co-smoothing bits per spike on held-out units")
    snapshots = {
        "best": metric,
        "lve": Metric("masked_loss", "min", "loss on masked entries"),
        "lfve": Metric("unmasked_loss", "min", "loss with nothing masked"),
    }
    default_space = "ndt"
    folders = FOLDERS
    environment = ("NLB_HOME",)
    sources = (
        *(Source(name, "dandi", known.dandiset, "NLB_DATA_RAW") for name, known in prepare.DATASETS.items()),
        Source(
            "aesmte3",
            "zenodo",
            "https://zenodo.org/api/records/5875246",
            "SUBMISSION_VALIDATION_ROOT",
            "ae-nlb-2021-model-checkpoints.zip",
            holds="checkpoints",
        ),
    )

    @property
    def studies_folder(self) -> str:
        return "neural-data-transformer"  # the original program's

    def load(self, config: Mapping[str, Any], phase: str) -> SpikeData:
        return load(config, phase)

    def own_data(self, path: str, block: Mapping[str, Any]) -> dict[str, Any]:
        file = super().own_data(path, {k: v for k, v in block.items() if k == "heldout_share"})
        if not Path(file["path"]).is_file():
            raise BadInput(f"{path}: is a folder; an HDF5 file of spike counts is wanted")
        return file

    def open(self, path: Path, phase: str) -> SpikeData:
        return open_h5(path)

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        return fingerprint(config)

    def subset(self, data: SpikeData, samples: np.ndarray) -> SpikeData:
        return replace(data, eval=data.eval.take(samples))

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return settings.resolve(config)

    def feasible(self, config: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
        """Whether a training step of the network fits into any device's memory."""
        try:
            refuse_unfit(settings.resolve(chosen), *shape(config))
        except (BadInput, OSError):
            return False
        return True

    def learner(self, config: Mapping[str, Any], data: SpikeData, place: Place, seed: int) -> NDTLearner:
        return NDTLearner(settings.resolve(config), data, place, seed)

    def restore(self, config: Mapping[str, Any], weights: Mapping[str, Any], place: Place) -> Predictor:
        network = build(config, weights, place.device)
        return SpikePredictor(network, weights["max_spikes"], weights["bins"], weights["heldin_units"], place.batch)

    def predict_many(self, members: Sequence[Predictor], data: SpikeData, place: Place) -> Iterator[Prediction]:
        """Members side by side, one core each: on a CPU that beats one member on all cores."""
        workers = min(len(members), place.threads)
        if workers < 2 or place.device != "cpu":
            yield from super().predict_many(members, data, place)
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(lambda member: member(data), members)
        finally:
            torch.set_num_threads(threads)

    def truth(self, data: SpikeData) -> Prediction:
        if data.eval.heldout is None:
            raise BadInput(f"{data.source}: holds no held-out spikes to score against")
        return {CoBps.NAME: data.eval.heldout}

    def scorer(self, truth: Mapping[str, np.ndarray]) -> CoBps:
        return CoBps(truth[CoBps.NAME])

    def describe(self, data: SpikeData) -> dict[str, str]:
        return {
            "recorded trials": f"{data.train.trials} training, {data.eval.trials} validation",
            "bins": f"{data.bins} observed, {data.forward_bins} forward",
            "units": f"{data.heldin_units} held-in, {data.heldout_units} held-out",
        }

    def pictures(self, data: SpikeData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        from models.ndt import plots

        return plots.pictures(data, prediction)

    # ---- the benchmark and the original program: what only they need is imported when it is asked for

    def evaluate(
        self, predicted: Predictor | Path, config: Mapping[str, Any], target: Path | None, name: str
    ) -> dict[str, dict[str, float]]:
        from models.ndt import evaluation

        return evaluation.evaluate(predicted, config, target, name)

    def submission(self, predict: Predictor, config: Mapping[str, Any], out: Path) -> str | None:
        if "dataset" not in config:
            return None
        try:
            data = self.load(config, "test")
        except BadInput as error:
            return f"no submission file: {error}"
        write_submission({prepare.name_of(config)[2]: submission_arrays(predict, data)}, out)
        return f"submission for {config['dataset']} written (EvalAI form)"

    def validate_submission(
        self, dataset: str, submission: Path, root: Path | None, size: int | None, say: Callable[[str], None]
    ) -> list[str]:
        from models.ndt import validation

        root = root or folder("SUBMISSION_VALIDATION_ROOT")
        return [str(found) for found in validation.validate(self, dataset, submission, root, size, say)]

    def import_checkpoint(self, path: Path, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return original.convert(path, dataset)

    def imported_data(self, dataset: str) -> dict[str, Any]:
        return {"dataset": dataset, "bin_ms": 5}

    def original_space(
        self, name: str, data: Mapping[str, Any], fixed: Mapping[str, Any], space: Mapping[str, Any]
    ) -> dict[str, str]:
        from models.ndt import templates

        return templates.files(name, data, fixed, space)
