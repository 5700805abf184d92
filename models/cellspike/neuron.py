"""A Hodgkin-Huxley neuron of many compartments, simulated for many sets of conductances at once.

Channels are those of layer-5 pyramidal cells at 34 °C (kinetics as published by Hay et al., PLoS Comput. Biol. 7,
e1002107, 2011, and the works it cites). Units: mV, ms, µm, nA, S/cm².

A step is exact exponentials for the gates at the present voltages, then backward Euler for the voltages on the tree of
compartments, solved by elimination from the tips to the soma (Hines, Int. J. Biomed. Comput. 15, 69, 1984). It is
first order in the step and, unlike the second-order ones, damps the stiff axon's sodium at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Rates = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Voltages (mV) -> the gate's steady state and its time constant (ms)."""

REST = -75.0
CAPACITANCE = {"soma": 1.0, "axon": 1.0, "apic": 2.0, "dend": 2.0}  # µF/cm²; spines double a dendrite's membrane
RESISTIVITY = 100.0  # of the cytoplasm, Ω cm
_FASTER = 2.3 ** ((34 - 21) / 10)  # kinetics were measured at 21 °C
_LOW, _HIGH, _FINE = -150.0, 100.0, 100  # gates are tabulated at 1/100 mV


@dataclass(frozen=True)
class Channel:
    """A kind of ion channel: its current is g · Π gate^power · (reversal − V)."""

    reversal: float
    gates: tuple[tuple[Rates, int], ...] = ()


@dataclass(frozen=True)
class Section:
    """A piece of unbranched neurite: `region` soma, axon, apic or dend; `parent` is a section's place in the list."""

    region: str
    parent: int
    segments: int
    length: float
    diameter: float


def _linoid(v: np.ndarray, half: float, rate: float, slope: float) -> np.ndarray:
    """rate · x / (1 − exp(−x / slope)) of x = v − half, without its gap at 0."""
    x = (v - half) / slope
    small = np.abs(x) < 1e-6
    safe = np.where(small, 1.0, x)
    return rate * slope * np.where(small, 1 + x / 2, safe / -np.expm1(-safe))


def _sigmoid(v: np.ndarray, half: float, slope: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(v - half) / slope))


def _of_rates(opening: np.ndarray, closing: np.ndarray, faster: float) -> tuple[np.ndarray, np.ndarray]:
    return opening / (opening + closing), 1 / (opening + closing) / faster


def _sodium(activation: float, inactivation: float) -> tuple[tuple[Rates, int], ...]:
    def m(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _of_rates(_linoid(v, activation, 0.182, 6), _linoid(-v, -activation, 0.124, 6), _FASTER)

    def h(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _of_rates(_linoid(-v, -inactivation, 0.015, 6), _linoid(v, inactivation, 0.015, 6), _FASTER)

    return (m, 3), (h, 1)


def _kv3(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _sigmoid(v, 18.7, 9.7), 4 * _sigmoid(v, -46.56, 44.14)


def _muscarinic(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _of_rates(3.3e-3 * np.exp(0.1 * (v + 35)), 3.3e-3 * np.exp(-0.1 * (v + 35)), _FASTER)


def _transient_m(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _sigmoid(v, -10, 19), (0.34 + 0.92 * np.exp(-(((v + 81) / 59) ** 2))) / _FASTER


def _transient_h(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _sigmoid(v, -76, -10), (8 + 49 * np.exp(-(((v + 83) / 23) ** 2))) / _FASTER


def _persistent_m(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below, above = 175.03 * np.exp(0.026 * (v + 10)), 13 * np.exp(-0.026 * (v + 10))
    return _sigmoid(v, -11, 12), (1.25 + np.where(v < -60, below, above)) / _FASTER


def _persistent_h(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    slow = 360 + (1010 + 24 * (v + 65)) * np.exp(-(((v + 85) / 48) ** 2))
    return _sigmoid(v, -64, -11), slow / _FASTER


def _mixed_cation(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _of_rates(_linoid(-v, 154.9, 0.00643, 11.9), 0.193 * np.exp(v / 33.1), 1.0)


CHANNELS: dict[str, Channel] = {
    "NaTs2_t": Channel(50.0, _sodium(-32, -60)),
    "NaTa_t": Channel(50.0, _sodium(-38, -66)),
    "SKv3_1": Channel(-85.0, ((_kv3, 1),)),
    "Im": Channel(-85.0, ((_muscarinic, 1),)),
    "K_Tst": Channel(-85.0, ((_transient_m, 4), (_transient_h, 1))),
    "K_Pst": Channel(-85.0, ((_persistent_m, 2), (_persistent_h, 1))),
    "Ih": Channel(-45.0, ((_mixed_cation, 1),)),
    "pas": Channel(REST),
}


class Cable:
    """A morphology cut into compartments; section 0 is the soma.

    Attributes:
        regions: of each compartment, those of one region side by side.
        parents: (C,) int, of each compartment the one towards the soma (the soma's is −1); parents come first.
        distances: (C,) from the soma's centre along the neurite, µm.
        areas: (C,) of membrane, cm².
        capacities: (C,) µF/cm².
        inward, outward: (C,) conductance to the parent per area of the compartment, of the parent, mS/cm².
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        order = sorted(range(len(sections)), key=lambda i: list(CAPACITANCE).index(sections[i].region))
        regions: list[str] = []
        parents: list[int] = []
        distances: list[float] = []
        sizes: list[tuple[float, float]] = []
        last: dict[int, int] = {}
        for place in order:
            section = sections[place]
            step = section.length / section.segments
            for segment in range(section.segments):
                parent = len(regions) - 1 if segment else last.get(section.parent, -1)
                # the soma counts as a point, in whose centre everything begins
                start = 0.0 if parent <= 0 else distances[parent] + sizes[parent][0] / 2
                distances.append(start + step / 2 if regions else 0.0)
                regions.append(section.region)
                parents.append(parent)
                sizes.append((step, section.diameter))
            last[place] = len(regions) - 1
        length, diameter = np.array(sizes).T * 1e-4  # cm
        self.regions, self.parents = tuple(regions), np.array(parents)
        self.distances = np.array(distances)
        self.areas = np.pi * diameter * length
        self.capacities = np.array([CAPACITANCE[region] for region in regions])
        half = RESISTIVITY * (length / 2) / (np.pi * diameter**2 / 4)  # Ω from the centre to an end
        link = np.zeros(len(regions))
        link[1:] = 1e3 / (half[1:] + half[self.parents[1:]])
        self.inward = link / self.areas
        self.outward = link / self.areas[self.parents]

    def __len__(self) -> int:
        return len(self.regions)

    def region(self, name: str) -> slice:
        """Its compartments; all of them for "all"."""
        if name == "all":
            return slice(0, len(self))
        first = self.regions.index(name)
        return slice(first, first + self.regions.count(name))


@lru_cache(maxsize=64)
def _table(gate: Rates, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Steady states, and shares of the way there that a step goes, at each tabulated voltage; float32."""
    v = np.linspace(_LOW, _HIGH, round((_HIGH - _LOW) * _FINE) + 1)
    steady, tau = gate(v)
    return steady.astype(np.float32), -np.expm1(-step / tau).astype(np.float32)


class _Part:
    """The channels of one region: gates (G, compartments, samples), and what they conduct."""

    def __init__(self, at: slice, densities: Mapping[str, np.ndarray], rest: np.ndarray, step: float) -> None:
        self.at = at
        self.channels = [(CHANNELS[name], 1e3 * g.astype(np.float32)) for name, g in densities.items()]
        tables = [_table(gate, step) for channel, _ in self.channels for gate, _ in channel.gates]
        self.steady = np.stack([steady for steady, _ in tables]) if tables else np.zeros((0, 1), np.float32)
        self.share = np.stack([share for _, share in tables]) if tables else self.steady
        self.gates = self.steady[:, rest[at]] if tables else np.zeros((0, *rest[at].shape), np.float32)
        self._target, self._share = np.empty_like(self.gates), np.empty_like(self.gates)

    def advance(self, places: np.ndarray) -> None:
        """Gates a step on, at the voltages of these places in the tables (C, N)."""
        if not len(self.gates):
            return
        np.take(self.steady, places[self.at], axis=1, out=self._target, mode="clip")
        np.take(self.share, places[self.at], axis=1, out=self._share, mode="clip")
        self._target -= self.gates
        self._target *= self._share
        self.gates += self._target

    def conduct(self, total: np.ndarray, driven: np.ndarray) -> None:
        """Add conductances (mS/cm²) to `total` (C, N), and times their reversal potentials to `driven`."""
        gate = iter(self.gates)
        for channel, density in self.channels:
            g = density
            for _, power in channel.gates:
                s = next(gate)
                for _ in range(power):
                    g = g * s
            total[self.at] += g
            driven[self.at] += g * np.float32(channel.reversal)


def simulate(
    cable: Cable, densities: Mapping[tuple[str, str], np.ndarray], current: np.ndarray, step: float, start: float = REST
) -> Iterator[np.ndarray]:
    """Voltages at the beginning of each interval of the stimulus.

    Args:
        densities: (region or "all", channel) -> maximal conductance (N,), S/cm².
        current: into the soma (T,), nA, each value held for one step.
        step: ms.
        start: the voltage everywhere at the first interval, gates in their steady state there.

    Yields:
        (C, N) float32 mV, T times; the array is used again for the next.
    """
    samples = len(next(iter(densities.values())))
    v = np.full((len(cable), samples), start, np.float32)
    index = ((v - np.float32(_LOW)) * _FINE + 0.5).astype(np.int32)
    grouped: dict[str, dict[str, np.ndarray]] = {}
    for (region, channel), g in densities.items():
        grouped.setdefault(region, {})[channel] = g
    parts = [_Part(cable.region(region), channels, index, step) for region, channels in grouped.items()]

    column = (len(cable), 1)
    still = (cable.capacities / step).astype(np.float32).reshape(column)
    axial = cable.inward.copy()
    np.add.at(axial, cable.parents[1:], cable.outward[1:])
    held = still + axial.astype(np.float32).reshape(column)
    inward, outward = cable.inward.astype(np.float32), cable.outward.astype(np.float32)
    # nA over cm²: µA/cm²
    injected = (current * 1e-3 / cable.areas[0]).astype(np.float32)
    tree = [(i, int(p), inward[i], outward[i]) for i, p in enumerate(cable.parents) if p >= 0]
    diagonal, right, ratio = np.empty_like(v), np.empty_like(v), np.empty(samples, np.float32)
    for drive in injected:
        yield v
        np.copyto(index, (v - np.float32(_LOW)) * _FINE + np.float32(0.5), casting="unsafe")
        diagonal[:] = held
        np.multiply(v, still, out=right)
        right[0] += drive
        for part in parts:
            part.advance(index)
            part.conduct(diagonal, right)
        for i, parent, to_parent, from_child in reversed(tree):
            np.divide(from_child, diagonal[i], out=ratio)
            right[parent] += ratio * right[i]
            ratio *= to_parent
            diagonal[parent] -= ratio
        right[0] /= diagonal[0]
        for i, parent, to_parent, _ in tree:
            right[i] += to_parent * right[parent]
            right[i] /= diagonal[i]
        v, right = right, v
