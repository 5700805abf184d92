"""The search spaces in the original program's two files: nested YAML template, JSON ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from models.ndt.config import DEFAULTS

_INTEGERS = ("randint", "lograndint")


def files(
    name: str, data: Mapping[str, Any], fixed: Mapping[str, Any], space: Mapping[str, Mapping[str, list[Any]]]
) -> dict[str, str]:
    """<name>.yaml and <name>.json of one of the benchmark's datasets; nothing for other data.

    Args:
        name: the dataset's.
        data, fixed: as in the search space.
        space: setting -> {kind: [bounds or options]}.
    """
    if "dataset" not in data:
        return {}
    return {
        f"{name}.yaml": yaml.safe_dump(template(str(data["dataset"]), fixed), sort_keys=False),
        f"{name}.json": json.dumps({setting: _entry(entry) for setting, entry in space.items()}, indent=2) + "\n",
    }


def template(dataset: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Fixed settings, and the files that Concert's data step really writes."""
    names = {"DATA.TRAIN_FILENAME": f"{dataset}_train.h5", "DATA.VAL_FILENAME": f"{dataset}_train.h5"}
    return nested({**{k: DEFAULTS[k] for k in fixed if k in DEFAULTS}, **fixed, **names})


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"MODEL.DROPOUT": .2} -> {MODEL: {DROPOUT: .2}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        at = tree
        *path, last = name.split(".")
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return tree


def _entry(domain: Mapping[str, list[Any]]) -> dict[str, Any]:
    ((kind, values),) = domain.items()
    if kind == "choice":
        return {"opts": values, "sample_fn": "choice"}
    low, high = (int(v) for v in values) if kind in _INTEGERS else values
    return {"low": low, "high": high, "sample_fn": kind}
