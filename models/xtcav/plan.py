"""The planning table: what a training step of a network takes, told before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ground.documents import read_yaml
from ground.schemas import Schema, Table, checked
from models.xtcav import config as settings
from models.xtcav import data as shots
from models.xtcav import memory
from models.xtcav.build import build
from models.xtcav.config import PUBLISHED
from models.xtcav.measure import measure
from models.xtcav.network import published

SEED_NET = {"NET": "convnet_app", "SCALARS": False, "OPTIMIZER": "momentum"}
"""The net of the original program's log: 6726 variables, 726x568 pixels, batch 32."""


class _Settings(Schema):
    """Where a file says settings."""

    fixed: Table | None = None
    data: Table | None = None


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and `data` block of a YAML file: a search space (its `fixed`), or settings alone.

    Raises:
        BadInput: unreadable, or no mapping.
    """
    content = read_yaml(path)
    told = checked(_Settings, content, path)
    if "fixed" in content or "data" in content:
        return told.fixed or {}, told.data or {}
    return content, {}


def table(
    config: Mapping[str, Any], shape: tuple[int, int], scalars: int, outputs: int, measured: Mapping[str, float] | None
) -> tuple[list[str], str]:
    """The lines to print, and why the step does not fit (empty where it does).

    Args:
        config: complete settings.
        shape: (h, w) of the images after preprocessing.
        measured: what `measure` found, or None where it was not asked.
    """
    batch = config["BATCH_SIZE"]
    with torch.device("meta"):
        network = build(config, shape, scalars, outputs)
    variables = sum(p.numel() for p in network.parameters())
    lines = [f"{config['NET']}: {variables} variables, batch {batch}, images {shape[0]}x{shape[1]}"]
    if config["NET"] in PUBLISHED:
        told, total = memory.notes_table(published(dict(config)), shape, batch)
        lines += [f"{line.name:>14} {_form(line.shape):>18} {line.output / memory.MB:10.2f} MB" for line in told]
        lines.append(f"{'step':>14} {'by the notes':>18} {total:10.2f} MB (each convolution counted three times)")
    found = memory.planned(config, shape, scalars, outputs)
    lines += ["", f"{'layer':>28} {'output':>20} {'output MB':>10} {'kept MB':>10} {'variables':>10}"]
    for line in found:
        sizes = f"{line.output / memory.MB:10.2f} {line.kept / memory.MB:10.2f} {line.parameters or '':>10}"
        lines.append(f"{line.name:>28} {_form(line.shape):>20} {sizes}")
    free = memory.available()
    need = memory.step_bytes(found, config)
    lines.append(
        f"\na training step needs {need / memory.MB:.0f} MB beside the process's own {memory.PROCESS / memory.MB:.0f} "
        f"and the images kept (data key cache_mb); {free / memory.MB:.0f} MB are free"
    )
    if measured:
        lines.append(
            f"measured here: training step {measured['train_s']:.3f} s, evaluation {measured['eval_s']:.3f} s, "
            f"peak of the process {measured['peak_mb']:.2f} MB"
        )
    return lines, memory.too_large(found, config, free)


def _form(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def run(
    config_file: Path | None, changes: Mapping[str, Any], image: tuple[int, int] | None, classes: int, threads: int
) -> tuple[list[str], str]:
    """`table` for what a user named: the seed's net where nothing was, the data's shape where there is data."""
    given, block = read(config_file) if config_file is not None else ({} if changes else dict(SEED_NET), {})
    config = settings.resolve({**given, **changes})
    scalars, outputs = 0, classes
    if image is None and block:
        data = shots.load(block, "val")
        image, scalars = data.image_shape, len(data.scalars)
        outputs = data.classes if data.task == "classification" else 2 * len(data.targets)
        data.close()
    shape = image or ((published(dict(config)).image) if config["NET"] in PUBLISHED else (181, 142))
    found = memory.planned(config, shape, scalars, outputs)
    fits = not memory.too_large(found, config, memory.available())
    measured = measure(config, shape, scalars, outputs, threads) if fits and threads else None
    return table(config, shape, scalars, outputs, measured)
