"""The spaces of the NLB datasets in the original program's two files: nested YAML template, JSON ranges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ground.files import write_text
from ground.paths import cache_dir
from models.ndt.config import DEFAULTS
from models.ndt.prepare import DATASETS
from search_spaces.schema import Domain, SearchSpace, load


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"MODEL.DROPOUT": .2} -> {MODEL: {DROPOUT: .2}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        at = tree
        *path, last = name.split(".")
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return tree


def template(space: SearchSpace) -> dict[str, Any]:
    """Fixed settings, and the files that Concert's data step really writes."""
    name = str(space.data["dataset"])
    files = {"DATA.TRAIN_FILENAME": f"{name}_train.h5", "DATA.VAL_FILENAME": f"{name}_train.h5"}
    return nested({**{k: DEFAULTS[k] for k in space.fixed if k in DEFAULTS}, **space.fixed, **files})


def ranges(space: SearchSpace) -> dict[str, dict[str, Any]]:
    return {name: _entry(domain) for name, domain in space.space.items()}


def _entry(domain: Domain) -> dict[str, Any]:
    if domain.kind == "choice":
        return {"opts": list(domain.options), "sample_fn": "choice"}
    low, high = (int(domain.low), int(domain.high)) if domain.integer else (domain.low, domain.high)
    return {"low": low, "high": high, "sample_fn": domain.kind}


def generate(folder: Path | None = None, overwrite: bool = False, say: Callable[[str], None] = print) -> list[Path]:
    """Write <dataset>.yaml and <dataset>.json for each NLB dataset into CONFIG_DIR; what is there stays."""
    folder = folder or cache_dir("CONFIG_DIR")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in DATASETS:
        space = load(name)
        files = {
            folder / f"{name}.yaml": yaml.safe_dump(template(space), sort_keys=False),
            folder / f"{name}.json": json.dumps(ranges(space), indent=2) + "\n",
        }
        for path, text in files.items():
            if path.exists() and not overwrite:
                say(f"{path}: is there, left alone (--overwrite replaces it)")
                continue
            write_text(path, text)
            written.append(path)
            say(str(path))
    return written
