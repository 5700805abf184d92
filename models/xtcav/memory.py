"""What a training step takes: the planning table of the study's notes, the bytes a step needs here, and a refusal
before a trial would exhaust the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ground.errors import BadInput
from ground.machine import available_memory
from models.xtcav.build import build
from models.xtcav.network import Published

MB = 2**20
FLOAT = 4
PROCESS = 350 * MB
"""What a process with torch needs before it trains anything."""


@dataclass(frozen=True)
class Layer:
    """One line of a table.

    Attributes:
        name: of the layer.
        shape: of its output, batch first.
        kept: bytes that training holds for the backward pass.
        parameters: trainable numbers.
        output: bytes of its output.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    parameters: int
    output: int


def notes_table(net: Published, shape: tuple[int, int], batch: int) -> tuple[list[Layer], float]:
    """The notes' own account of a step, float32: each layer's output, and the total it was told with.

    The total counts the input, three tensors a convolution (the product, with its bias, after the ReLU), the pools,
    and the kernels and their biases; the reshaped pool (U) shares its memory. The lines alone sum to less.

    Returns:
        The lines (input, conv1, nonlinear1, pool1, U1, ...), and the total in MB of 2^20 bytes.
    """
    lines: list[Layer] = []

    def line(name: str, channels: int, parameters: int = 0) -> int:
        size = FLOAT * batch * height * width * channels
        lines.append(Layer(name, (batch, height, width, channels), size, parameters, size))
        return size

    height, width = shape
    total = line("input", 1)
    channels = 1
    for number, conv in enumerate(net.convs, 1):
        height, width = conv.size((height, width))
        variables = conv.channels * (conv.side**2 * channels + net.bias)
        channels = conv.channels
        total += 3 * line(f"conv{number}", channels, variables) + FLOAT * variables
        line(f"nonlinear{number}", channels)
        if conv.pool is not None:
            height, width = conv.pool.size(height), conv.pool.size(width)
            total += line(f"pool{number}", channels)
            line(f"U{number}", channels)
    return lines, total / MB


def layers(network: nn.Module, shape: tuple[int, int], scalars: int, batch: int) -> list[Layer]:
    """What each layer's forward pass keeps for the backward one; nothing is computed for it.

    Args:
        network: on the device "meta".
        shape: (h, w) of the images.
    """
    names = {module: name for name, module in network.named_modules()}
    leaves = [module for module in network.modules() if not list(module.children())]
    kept: dict[str, int] = {}
    outputs: dict[str, tuple[tuple[int, ...], int]] = {}
    inside: list[str] = []
    seen: dict[int, Any] = {parameter.untyped_storage()._cdata: parameter for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen[storage._cdata] = storage  # held: its number must stay its own
            name = inside[-1] if inside else "between"
            kept[name] = kept.get(name, 0) + storage.nbytes()
        return tensor

    def enter(module: nn.Module, _: Any) -> None:
        inside.append(names[module])

    def leave(module: nn.Module, _: Any, output: Tensor) -> None:
        inside.pop()
        outputs[names[module]] = (tuple(output.shape), output.numel() * output.element_size())

    hooks = [leaf.register_forward_pre_hook(enter) for leaf in leaves]
    hooks += [leaf.register_forward_hook(leave) for leaf in leaves]
    images = torch.empty(batch, 1, *shape, device="meta")
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.train()(images, torch.empty(batch, scalars, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    size = images.numel() * FLOAT
    lines = [Layer("input", tuple(images.shape), 0, 0, size)]
    sizes = {names[leaf]: sum(p.numel() for p in leaf.parameters()) for leaf in leaves}
    for name, (form, wide) in outputs.items():
        lines.append(Layer(name, form, kept.get(name, 0), sizes[name], wide))
    between = kept.get("between", 0)
    return [*lines, Layer("between layers", (), between, 0, 0)] if between else lines


def step_bytes(lines: list[Layer], config: Mapping[str, Any]) -> int:
    """What a training step needs at its height: what is kept, two gradients of the largest layer, and for each
    parameter its value, gradient, the optimizer's numbers and the running mean."""
    copies = {"momentum": 1, "adam": 2, "adamw": 2}[config["OPTIMIZER"]] + bool(config["AVERAGE"])
    parameters = sum(line.parameters for line in lines)
    # value, gradient, the flat gradient of this step and of the one before
    numbers = FLOAT * parameters * (4 + copies)
    return sum(line.kept for line in lines) + 2 * max(line.output for line in lines) + numbers


def planned(config: Mapping[str, Any], shape: tuple[int, int], scalars: int, outputs: int) -> list[Layer]:
    """The layers of the network that the settings name."""
    with torch.device("meta"):
        network = build(config, shape, scalars, outputs)
    return layers(network, shape, scalars if config["SCALARS"] else 0, config["BATCH_SIZE"])


def available(device: torch.device | None = None) -> int:
    """Bytes that a process could still get: of a GPU, of this machine, or of what its control group leaves."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def too_large(lines: list[Layer], config: Mapping[str, Any], free: int) -> str:
    """Why a step does not fit into the share MEMORY of `free` bytes, by layer; nothing where it does."""
    need, limit = step_bytes(lines, config), int(config["MEMORY"] * free)
    if need <= limit:
        return ""
    heavy = sorted(lines, key=lambda line: -(line.kept + line.output))[:3]
    by_layer = ", ".join(f"{line.name} {(line.kept + line.output) / MB:.0f} MB" for line in heavy)
    return (
        f"a step of {config['NET']} with BATCH_SIZE {config['BATCH_SIZE']} needs {need / MB:.0f} MB, {limit / MB:.0f} "
        f"are free ({by_layer}): a smaller batch or fewer pixels (preprocess: downsample) would fit"
    )


def refuse_too_large(
    config: Mapping[str, Any], shape: tuple[int, int], scalars: int, outputs: int, device: torch.device
) -> None:
    """Raises BadInput where a training step would not fit into memory, before anything is allocated for it."""
    reason = too_large(planned(config, shape, scalars, outputs), config, available(device))
    if reason:
        raise BadInput(reason)
