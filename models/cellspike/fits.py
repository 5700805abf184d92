"""Whether a network can be made for traces of some shape, told before memory is taken for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ground.errors import BadInput
from models.cellspike.network import build, parameters, shapes


def refuse_unfit(config: Mapping[str, Any], shape: Sequence[int], outputs: int) -> None:
    """Raises BadInput where kernels and pools do not fit into the bins, or there would be too many parameters.

    Args:
        config: complete settings.
        shape: bins, probes, towers and features of a sample.
        outputs: parameters that are predicted.
    """
    bins, probes, towers, features = (int(n) for n in shape)
    shapes(config, bins)
    with torch.device("meta"):
        count = parameters(build(config, bins, probes, outputs, features, towers))
    most = config["MAX_PARAMETERS"]
    if most and count > most:
        raise BadInput(
            f"the network would have {count:,} parameters, MAX_PARAMETERS is {most:,}: pool more, or earlier"
        )
