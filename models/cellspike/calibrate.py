"""What u* means for a set of cells, and which probes of each are looked at: the Transform conf.

Over the cells j, with base_jk = sqrt(lo · hi) of `physRange` and L_jk its log10,

    centP_k = (min_j L_jk + max_j L_jk) / 2,    delP_k = (max_j L_jk − min_j L_jk) / 2 + 1,

so that u* = (u + L_jk − centP_k) / delP_k stays within [−1, 1] for u within [−1, 1] in every cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ground.errors import BadInput
from ground.files import write_text
from ground.paths import expanded
from models.cellspike.cells import Cell, fixed
from models.cellspike.unfinished import write_once
from models.cellspike.units import bases
from models.cellspike.yamls import entry, read_yaml, write_yaml

GOALS = ("soma", "axon_150um", "apic_dend_150um", "soma_dend_50um")
KINDS = ("excite", "inhib")
_SUFFIXES = {"_apical": ".api", "_axonal": ".axn", "_somatic": ".som", "_dend": ".den"}


@dataclass(frozen=True)
class Conf:
    """A Transform conf.

    Attributes:
        path: its file.
        kind: of the cells, "excite" or "inhib": a word of the packs' names.
        inp, out: the folders of raw cells and of packs.
        goals: what the probes are called in every cell.
        probes: cell -> [probe index, name, µm] a goal.
        conduct: [index in physRange, name, centP, delP] a conductance.
    """

    path: Path
    kind: str
    inp: Path
    out: Path
    goals: tuple[str, ...]
    probes: dict[str, list[list[Any]]]
    conduct: list[list[Any]]

    @classmethod
    def of(cls, path: Path) -> Conf:
        """Read from a file.

        Raises:
            BadInput: unreadable or incomplete.
        """
        content = read_yaml(path)
        conduct = entry(content, "conductName", path, list)
        probes = entry(content, "probeNamePerCell", path, dict)
        goals = tuple(str(goal) for goal in entry(content, "goalFeatureName", path, list))
        try:
            rows: list[list[Any]] = [
                [int(index), str(name), float(cent), float(delta)] for index, name, cent, delta in conduct
            ]
        except (TypeError, ValueError):
            raise BadInput(f"{path}: conductName is not rows of [index, name, centP, delP]") from None
        if not rows or not np.isfinite([row[2:] for row in rows]).all() or min(row[3] for row in rows) <= 0:
            raise BadInput(f"{path}: conductName has no rows, or a centP or delP that is no number (delP: above 0)")
        for cell, chosen in probes.items():
            if not isinstance(chosen, list) or len(chosen) != len(goals):
                raise BadInput(f"{path}: probeNamePerCell of {cell} does not have the {len(goals)} of goalFeatureName")
            if not all(isinstance(row, list) and len(row) >= 2 and isinstance(row[0], int) for row in chosen):
                raise BadInput(f"{path}: probeNamePerCell of {cell} is not rows of [index, name, µm]")
        return cls(
            path=path,
            kind=str(content.get("cellKind", "excite")),
            inp=_place(path, entry(content, "inpPath", path, str)),
            out=_place(path, entry(content, "outPath", path, str)),
            goals=goals,
            probes={str(cell): chosen for cell, chosen in probes.items()},
            conduct=rows,
        )


def _place(conf: Path, text: str) -> Path:
    """Relative paths are relative to the conf."""
    place = expanded(text)
    return place if place.is_absolute() else conf.resolve().parent / place


def short(name: str) -> str:
    """gNaTs2_tbar_NaTs2_t_apical -> gNaTs2.tbar.NaTs2.t.api; short names stay as they are."""
    for suffix, brief in _SUFFIXES.items():
        if name.endswith(suffix):
            name = name.removesuffix(suffix) + brief
    return name.replace("_", ".")


def conductances(cells: Sequence[Cell]) -> tuple[list[list[Any]], np.ndarray]:
    """`conductName` rows of the cells, and log10 of the bases (cells, K).

    Raises:
        BadInput: cells that disagree about the parameters, or a conductance without a base.
    """
    first = cells[0]
    names = [short(name) for name in first.names]
    for cell in cells[1:]:
        if [short(name) for name in cell.names] != names:
            differing = sorted({short(name) for name in cell.names} ^ set(names))[:4]
            what = ", ".join(differing) if differing else "their order"
            raise BadInput(f"cells {first.name} and {cell.name} have different parameters: {what}")
    kept = [k for k, name in enumerate(first.names) if not fixed(name)]
    if not kept:
        raise BadInput(f"cell {first.name}: every parameter is fixed or const")
    logs = np.empty((len(cells), len(kept)))
    for row, cell in zip(logs, cells, strict=True):
        try:
            row[:] = np.log10(bases([cell.names[k] for k in kept], cell.ranges[kept]))
        except BadInput as error:
            raise BadInput(f"cell {cell.name}: {error}") from None
    low, high = logs.min(0), logs.max(0)
    cent, delta = (low + high) / 2, (high - low) / 2 + 1
    rows = [[k, names[k], float(c), float(d)] for k, c, d in zip(kept, cent, delta, strict=True)]
    return rows, logs


def choose(cell: Cell, goals: Sequence[str], distances: Mapping[str, float] | None = None) -> list[list[Any]]:
    """For each goal the probe of its region that is nearest to its distance: [index, name, µm].

    Args:
        goals: "soma", or region and distance as in "axon_150um".
        distances: µm of probes by name, where the cell's meta file does not know.

    Raises:
        BadInput: no distances, a goal that says nothing, or no such probe.
    """
    if distances is None and cell.distances is None:
        raise BadInput(f"cell {cell.name}: its meta file has no probeDistance; give --probes FILE")
    if distances is None:
        known = dict(zip(cell.probes, np.asarray(cell.distances).tolist(), strict=True))
    else:
        known = dict(distances)
        strange = sorted(set(known) - set(cell.probes))
        if strange:
            raise BadInput(f"cell {cell.name}: has no probe {strange[0]}; it has {', '.join(cell.probes[:8])} …")
    chosen = []
    for goal in goals:
        region, wanted = _goal(goal)
        near = [(abs(known[name] - wanted), k) for k, name in enumerate(cell.probes) if _in(region, name, known)]
        if not near:
            raise BadInput(f"cell {cell.name}: has no {region} probe for {goal}; leave the goal out with --goals")
        place = min(near)[1]
        chosen.append([place, cell.probes[place], round(float(known[cell.probes[place]]), 1)])
    if len({row[0] for row in chosen}) < len(chosen):
        raise BadInput(f"cell {cell.name}: two of the goals {', '.join(goals)} are nearest to the same probe")
    return chosen


def _in(region: str, name: str, known: Mapping[str, float]) -> bool:
    return name in known and name.split("_")[0] == region


def _goal(goal: str) -> tuple[str, float]:
    """apic_dend_150um -> (apic, 150). The basal dendrites, soma_dend, are called dend in the probes' names."""
    *region, last = goal.split("_")
    if not region:
        return goal, 0.0
    try:
        distance = float(last.removesuffix("um"))
    except ValueError:
        raise BadInput(f"goal {goal!r} is no region with a distance such as axon_150um") from None
    return ("dend" if region == ["soma", "dend"] else region[0]), distance


def calibrate(
    cells: Sequence[Cell],
    out: Path,
    packs: Path,
    goals: Sequence[str] = GOALS,
    probes: Path | None = None,
    kind: str = "excite",
) -> list[str]:
    """Write the conf of these cells, and beside it the picture of their ranges (`.ranges.html`).

    Args:
        packs: the folder where packs are to go.
        probes: YAML of distances, cell -> {probe name: µm}.

    Returns:
        Lines for people: each conductance, and the cells between which it lies.

    Raises:
        BadInput: as `conductances` and `choose`; the file is there already.
    """
    told = read_yaml(probes) if probes is not None else None
    if told is not None:
        for cell in cells:
            if not isinstance(told.get(cell.name), Mapping):
                raise BadInput(f"{probes}: has no distances (probe: µm) of cell {cell.name}")
    rows, logs = conductances(cells)
    content = {
        "cellKind": kind,
        "inpPath": str(cells[0].folder.parent),
        "outPath": str(packs.resolve()),
        "goalFeatureName": list(goals),
        "probeNamePerCell": {cell.name: choose(cell, goals, told and told[cell.name]) for cell in cells},
        "conductName": rows,
    }
    write_once(out, lambda path: write_yaml(path, content))
    picture(rows, logs, [cell.name for cell in cells], out.with_suffix(".ranges.html"))
    names = [cell.name for cell in cells]
    return [
        f"{name}: centP {cent:.4f} delP {delta:.4f}, base from {names[int(column.argmin())]}"
        f" {10 ** column.min():.3g} to {names[int(column.argmax())]} {10 ** column.max():.3g}"
        for (_, name, cent, delta), column in zip(rows, logs.T, strict=True)
    ]


def picture(rows: Sequence[Sequence[Any]], logs: np.ndarray, cells: Sequence[str], out: Path) -> None:
    """Bases of all cells a conductance (points), and what u* from −1 to 1 spans (bars): a page of its own."""
    import plotly.graph_objects as go
    import plotly.io as pio

    figure = go.Figure()
    names = [row[1] for row in rows]
    cent, delta = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    figure.add_bar(
        y=names, x=2 * delta, base=cent - delta, orientation="h", marker_color="#d5e3f0", name="u* from −1 to 1"
    )
    for cell, line in zip(cells, logs, strict=True):
        figure.add_scatter(
            y=names, x=line, mode="markers", marker={"size": 6, "opacity": 0.7}, name=cell, legendgroup=cell
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title=f"Bases of {len(cells)} cells",
        xaxis_title="log10 of the conductance (S/cm²)",
        height=160 + 28 * len(names),
        template="plotly_white",
    )
    write_text(out, pio.to_html(figure, include_plotlyjs=True, full_html=True))
