"""Whether the data is still what a study began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ground import hdf5
from ground.errors import BadInput
from ground.hdf5 import reading_hdf5
from models.xtcav.files import files_of, resolve_files
from models.xtcav.options import Options, resolve

_PLAIN, _NO_MEANING = Options(), ("path", "dark", "strict", "cache_mb")
_WHOLE, _SAMPLED = 64 * 2**20, 4  # bytes of a collection that count whole; images a file of what is larger


def fingerprint(config: Mapping[str, Any]) -> str:
    """A digest of the files that a block means (names, sizes, sampled content) and of what it makes of them.

    Small collections count whole; of larger ones the labels, targets and scalars, and a few images of each file.
    """
    options = resolve(config)
    # a key that is left as it is says nothing: a new one must not make other data of the old
    meaning = {k: v for k, v in asdict(options).items() if k not in _NO_MEANING and v != getattr(_PLAIN, k)}
    digest = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
    paths = files_of(options)[0]
    dark = resolve_files(options.dark)[0] if options.dark else []
    whole = sum(path.stat().st_size for path in paths) <= _WHOLE
    for path in (*paths, *dark):
        digest.update(repr((path.name, path.stat().st_size)).encode())
        try:
            with reading_hdf5(path) as file:
                for group in options.groups or ("/",):
                    _sample(file.get(group), options, whole, digest)
        except BadInput:
            digest.update(b"unreadable")  # `load` skips it, or refuses
    return digest.hexdigest()


def _sample(file: Any, options: Options, whole: bool, digest: Any) -> None:
    if not isinstance(file, h5py.Group):
        return
    stamps = (options.run, options.seconds, options.nanoseconds, options.fiducials)
    for name in (options.image, options.label, *options.targets, *options.scalars, options.mask, *stamps):
        dataset = file.get(name) if name else None
        if not isinstance(dataset, h5py.Dataset):
            continue
        hdf5.described(file, Path(file.file.filename), name)
        digest.update(repr((name, dataset.shape, str(dataset.dtype))).encode())
        if name != options.image or whole or dataset.ndim == 0:
            digest.update(np.ascontiguousarray(dataset[()]).tobytes())
        else:
            for row in np.unique(np.linspace(0, dataset.shape[0] - 1, _SAMPLED).astype(int)):
                digest.update(np.ascontiguousarray(dataset[row]).tobytes())
