"""File names: what kind of events a file holds, which of them, and what of them.

`epoch24-batch0-reco_BeamCosmic_001_yinf-TPC1.npy` is the inference (yinf) of epoch 24 for part 0 of file 1 of the
simulated beam events with cosmics, TPC 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ground.errors import BadInput

EVENT_TYPES = ("Mu", "Electron", "Pion", "BeamCosmic", "protoDUNE")
PRODUCTS = ("root", "energy", "depo", "depoElectron", "wire", "hit", "xy", "pixel", "yinf", "mcbeamcosmic",
            "mcparticle", "spacepoint", "wirecell", "calo", "calonosce")  # fmt: skip
_LONGEST = sorted(PRODUCTS, key=len, reverse=True)
_CORE = re.compile(rf"({'|'.join(EVENT_TYPES)})(.)(\d+)(.)({'|'.join(_LONGEST)})(?![A-Za-z])")
_NUMBERS = {"tpc": re.compile(r"TPC(\d+)"), "batch": re.compile(r"batch(\d+)"), "epoch": re.compile(r"epoch(\d+)-")}


class Name(NamedTuple):
    """What a file's name says.

    Attributes:
        event_type: one of EVENT_TYPES.
        index: the file's number within its type.
        product: one of PRODUCTS.
        tpc: of several joined, their numbers side by side (159); None where the name has none.
        batch: which part of the file's events.
        epoch: of an inference.
    """

    event_type: str
    index: int  # type: ignore[assignment]
    product: str
    tpc: int | None = None
    batch: int | None = None
    epoch: int | None = None


def parse(path: Path | str) -> Name:
    """What the name of a file says; its folder does not matter.

    Raises:
        BadInput: the name does not hold exactly one event type, number and product.
    """
    text = Path(path).name
    found = list(_CORE.finditer(text))
    if len(found) != 1:
        raise BadInput(
            f"{path}: the name holds {len(found) or 'no'} event type{'s' * (len(found) > 1)}, number and product; "
            f"it takes one, such as BeamCosmic_001_xy (types {', '.join(EVENT_TYPES)}; products {', '.join(PRODUCTS)})"
        )
    event_type, _, index, _, product = found[0].groups()
    numbers = {key: int(match[1]) if (match := pattern.search(text)) else None for key, pattern in _NUMBERS.items()}
    return Name(event_type, int(index), product, **numbers)


def renamed(path: Path | str, product: str, tpc: int | None = None, batch: int | None = None) -> str:
    """The name of another product of the same events.

    Args:
        path: the file it is made from.
        product: the new one, which also decides the suffix (npy for inferences, else npz).
        tpc, batch: put in, or in the place of what is there; None leaves them as they are.

    Raises:
        BadInput: as `parse`.
    """
    parse(path)
    text = Path(path).stem
    found = _CORE.search(text)
    assert found is not None
    text = text[: found.start(5)] + product + text[found.end(5) :]
    if tpc is not None:
        there = _NUMBERS["tpc"].search(text)
        text = text[: there.start()] + f"TPC{tpc}" + text[there.end() :] if there else f"{text}-TPC{tpc}"
    if batch is not None:
        there = _NUMBERS["batch"].search(text)
        text = text[: there.start()] + f"batch{batch}" + text[there.end() :] if there else f"batch{batch}-{text}"
    return text + (".npy" if product == "yinf" else ".npz")


def xy(path: Path | str, tpc: int, batch: int | None = None) -> str:
    """The name of the tiled events of a parsed file."""
    return renamed(path, "xy", tpc, batch)


def joined(tpcs: Sequence[int]) -> int:
    """The number that stands for several TPCs together: 159 for 1, 5 and 9."""
    return int("".join(map(str, tpcs)))
