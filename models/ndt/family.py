"""The NDT as Concert sees it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ground.errors import BadInput
from models.base import Family, Metric, Prediction
from models.ndt import config as settings
from models.ndt import original
from models.ndt.data import SpikeData, load, open_h5
from models.ndt.learner import NDTLearner, Predictor
from models.ndt.metrics import bits_per_spike
from models.ndt.network import NDT
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

    def load(self, config: Mapping[str, Any], phase: str) -> SpikeData:
        return load(config, phase)

    def open(self, path: Path, phase: str) -> SpikeData:
        return open_h5(path)

    def fingerprint(self, data: SpikeData) -> str:
        return data.fingerprint()

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return settings.resolve(config)

    def learner(self, config: Mapping[str, Any], data: SpikeData, device: str, seed: int) -> NDTLearner:
        return NDTLearner(settings.resolve(config), data, device, seed)

    def restore(
        self, config: Mapping[str, Any], weights: Mapping[str, Any], device: str
    ) -> Callable[[Any], Prediction]:
        network = build(config, weights, device)
        return Predictor(network, weights["max_spikes"])

    def predict_many(self, members: Sequence[Callable[[Any], Prediction]], data: SpikeData) -> list[Prediction]:
        """Members side by side, one core each: on a CPU that beats one member on all cores."""
        workers = min(len(members), len(os.sched_getaffinity(0)))
        on_cpu = all(isinstance(m, Predictor) and m.device.type == "cpu" for m in members)
        if workers < 2 or not on_cpu:
            return super().predict_many(members, data)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return list(pool.map(lambda member: member(data), members))
        finally:
            torch.set_num_threads(threads)

    def truth(self, data: SpikeData) -> Prediction:
        if data.eval.heldout is None:
            raise BadInput(f"{data.source}: holds no held-out spikes to score against")
        return {"eval_rates_heldout": data.eval.heldout}

    def scored(self) -> Sequence[str]:
        return ("eval_rates_heldout",)

    def score(self, prediction: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
        return bits_per_spike(prediction["eval_rates_heldout"], truth["eval_rates_heldout"])

    def import_checkpoint(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        return original.convert(path)

    def submission(self, predict: Callable[[Any], Prediction], config: Mapping[str, Any], out: Path) -> str | None:
        if "dataset" not in config:
            return None
        try:
            data = self.load(config, "test")
        except BadInput as error:
            return f"no submission file: {error}"
        write_submission({str(config["dataset"]): submission_arrays(predict, data)}, out)
        return f"submission for {config['dataset']} written (EvalAI form)"

    def pictures(self, data: SpikeData, prediction: Mapping[str, np.ndarray]) -> list[tuple[str, Any]]:
        from models.ndt import plots

        return plots.pictures(data, prediction)


def build(config: Mapping[str, Any], weights: Mapping[str, Any], device: str) -> NDT:
    """A network holding `weights`, ready to predict; its initial weights are never drawn."""
    with torch.device("meta"):
        network = NDT(
            settings.resolve(config), weights["length"], weights["units"], weights["max_spikes"], initialize=False
        )
    positions = weights["network"].get("pos_encoder.pos_embedding.weight")
    if positions is not None and network.pos_encoder.learnable:
        # a saved table may hold more rows than there are bins; the saved `pe` says which are used
        network.pos_encoder.pos_embedding = torch.nn.Embedding(positions.shape[0], positions.shape[1], device="meta")
    network.load_state_dict(weights["network"], assign=True)
    return network.to(device).eval()
