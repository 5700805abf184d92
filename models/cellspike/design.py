"""What a design is, layer by layer, and a search's winner as a design of the original program."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ground.documents import read_yaml
from ground.errors import BadInput
from ground.files import read_json, write_text
from ground.schemas import Schema, Table, checked
from ground.typed import command
from models.cellspike import hpar
from models.cellspike.config import resolve
from models.cellspike.network import build, parameters, shapes
from models.cellspike.tower import Inverter, PooledConv, Row

_AROUND = 3.0
"""How far a written search space goes from the design's learning rate, as a factor."""


def design_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb `design`."""
    parser.add_argument("design", type=Path, help="a *.hpar.yaml, or settings as `winner` takes them")
    parser.add_argument("--bins", type=int, default=1600, help="time bins of a trace (default 1600)")
    parser.add_argument("--probes", type=int, default=3, help="probes (default 3)")
    parser.add_argument("--outputs", type=int, default=19, help="conductances (default 19)")
    parser.add_argument("--towers", type=int, default=1, help="CNNs side by side, one a stimulus (default 1)")
    parser.add_argument("-o", "--output", type=Path, help="write it as a search space of its learning rate")


def design_main(given: argparse.Namespace) -> int:
    """`design`: the layer table and parameter count of a design, and how its keys were understood.

    Raises:
        BadInput: unreadable, or its layers do not fit the traces.
    """
    for name in ("bins", "probes", "outputs", "towers"):
        if getattr(given, name) < 1:
            raise BadInput(f"--{name} is {getattr(given, name)}; it is at least 1")
    if given.design.name.endswith(hpar.SUFFIX):
        design = hpar.read(given.design)
        given_settings, data = design.settings, design.data
        for key, why in design.idle.items():
            print(f"no meaning here: {key} ({why})")
        for key in design.unknown:
            print(f"unknown key: {key}")
    else:
        given_settings, data = read_settings(given.design)
    try:
        settings = resolve(given_settings)
        lines = table(settings, given.bins, given.probes, given.outputs, given.towers)
    except BadInput as error:
        raise BadInput(f"{given.design}: {error}") from None
    print("\n".join(lines))
    for key, value in data.items():
        print(f"data key {key}: {value}")
    if given.output:
        _write(given.output, _space(given.design.name, given_settings, data, settings["LR"]))
        print(f"{given.output}: {command('run_hyperopt.py', given.output, '--data', 'PACKS')}")
    return 0


def winner_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb `winner`."""
    parser.add_argument("settings", type=Path, help="a trial's config.json, or a YAML of settings or a search space")
    parser.add_argument("--name", help="model.myId (default: the trial, or the file's name)")
    parser.add_argument("-o", "--output", type=Path, required=True, help=f"the design to write (*{hpar.SUFFIX})")


def winner_main(given: argparse.Namespace) -> int:
    """`winner`: settings that a search found, written in the original program's form.

    Raises:
        BadInput: unreadable or not expressible settings, or the output exists.
    """
    found, data = read_settings(given.settings)
    is_trial = given.settings.name == "config.json"
    name = given.name or (given.settings.resolve().parent.name if is_trial else given.settings.stem)
    text, lost = hpar.written(resolve(found), data, name)
    _write(given.output, text)
    print(f"{given.output}: design {name}")
    for line in lost:
        print(f"not said in it: {line}")
    return 0


class _Settings(Schema):
    """Where a file says settings."""

    settings: Table | None = None
    fixed: Table | None = None
    data: Table | None = None


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and data block of a trial (with what its study fixes), a search space's `fixed`, or plain settings.

    Raises:
        BadInput: unreadable, or no settings.
    """
    content = read_yaml(path)
    told = checked(_Settings, content, path)
    if told.settings is not None:
        # <study>/trials/<trial>/config.json; what the study fixed is said once, two folders up
        above = path.resolve().parents[2] / "study.json" if len(path.resolve().parents) > 2 else path
        study = checked(_Settings, read_json(above) or {}, above)
        return {**(study.fixed or {}), **told.settings}, study.data or {}
    if "fixed" in content or "space" in content:
        return told.fixed or {}, told.data or {}
    return {str(key): value for key, value in content.items()}, {}


def table(settings: Mapping[str, Any], bins: int, probes: int, outputs: int, towers: int = 1) -> list[str]:
    """Each layer with what it puts out and its parameters, and the sum.

    Raises:
        BadInput: a layer does not fit.
    """
    network = build(settings, bins, probes, outputs, towers=towers)
    assert isinstance(network, Inverter)
    lengths = [length for _, length in shapes(settings, bins)]
    rows: list[tuple[str, str, int]] = []
    for number, tower in enumerate(network.towers, 1):
        mark = f"tower {number}: " if towers > 1 else ""
        left = iter(lengths)
        for layer in tower.layers:  # type: ignore[union-attr]
            if isinstance(layer, PooledConv):
                conv = layer.conv
                name = f"conv {conv.in_channels}→{conv.out_channels} kernel {conv.kernel_size[0]}, pool {layer.pool}"
                rows.append((mark + name, f"{next(left)} → {next(left)}", parameters(layer)))
            elif isinstance(layer, Row):
                rows.append((mark + type(layer.layer).__name__, "", parameters(layer)))
    units = network.dense[0].in_features if len(network.dense) else network.last.in_features  # type: ignore[union-attr]
    rows.append(("flatten", str(units), 0))
    if parameters(network.flat):
        rows.append((type(network.flat).__name__, "", parameters(network.flat)))
    for layer in (*network.dense, network.last):
        assert isinstance(layer, nn.Linear)
        rows.append((f"dense {layer.out_features}", "", parameters(layer)))
    wide = max(len(name) for name, _, _ in rows)
    lines = [f"{name:{wide}}  {out:14} {count:>11,}" for name, out, count in rows]
    return [*lines, f"{'parameters':{wide}}  {'':14} {parameters(network):>11,}"]


def _space(source: str, settings: Mapping[str, Any], data: Mapping[str, Any], rate: float) -> str:
    """A search space that keeps the design and varies the rate around its own: trials differ in their seed as well."""
    around = [float(f"{rate * factor:.3g}") for factor in (1 / _AROUND, _AROUND)]
    content = {
        "description": f"the design {source}",
        "family": "cellspike",
        "data": dict(data),
        "fixed": {name: value for name, value in settings.items() if name != "LR"},
        "space": {"LR": {"loguniform": around}},
        "budget": {"samples": 10, "keep": 10},
    }
    return yaml.safe_dump(content, sort_keys=False)


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise BadInput(f"{path} exists; it is not overwritten")
    write_text(path, text)
