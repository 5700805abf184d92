"""The made-up cells of `generate`: their shapes, what their conductances are like, and the stimulus they are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.cellspike.neuron import REST, Cable, Section, simulate

STEP = 0.025  # ms: 40 kHz
SETTLING = 8  # the recording begins after an 8th of its time without stimulus
STIM = "chaotic_demo"
COUNT = 0.01  # mV of an int16 frame's unit

# name -> region, channel, typical base (S/cm²); None for what the simulation holds
PARAMETERS: dict[str, tuple[str, str, float] | None] = {
    "gNaTs2_tbar_NaTs2_t_apical": ("apic", "NaTs2_t", 0.03),
    "gSKv3_1bar_SKv3_1_apical": ("apic", "SKv3_1", 0.03),
    "gImbar_Im_apical": ("apic", "Im", 0.0006),
    "gNaTa_tbar_NaTa_t_axonal": ("axon", "NaTa_t", 1.0),
    "gK_Tstbar_K_Tst_axonal": ("axon", "K_Tst", 0.1),
    "gK_Pstbar_K_Pst_axonal": ("axon", "K_Pst", 0.3),
    "g_pas_fixed_axonal": None,
    "gSKv3_1bar_SKv3_1_somatic": ("soma", "SKv3_1", 0.2),
    "gNaTs2_tbar_NaTs2_t_somatic": ("soma", "NaTs2_t", 0.5),
    "e_pas_const_all": None,
    "g_pas_somatic": ("soma", "pas", 0.0003),
    "gIhbar_Ih_dend": ("dend", "Ih", 0.001),
}
HELD = {"g_pas_fixed_axonal": 3e-5, "e_pas_const_all": REST}
VARIED = [name for name, what in PARAMETERS.items() if what]
_SPREAD = 0.3  # decades by which the bases of a type and of its clones differ from the typical ones


@dataclass(frozen=True)
class Spec:
    """A made-up cell.

    Attributes:
        kind, clone: its name.
        cable: its shape, that of its type.
        probes: (name, µm from the soma), one a compartment.
        bases: (K,) S/cm² of the varied parameters.
    """

    kind: str
    clone: int
    cable: Cable
    probes: tuple[tuple[str, float], ...]
    bases: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.kind}{self.clone}"

    def ranges(self) -> list[tuple[str, float, float]]:
        """`physRange`: a decade to both sides of the base."""
        base = dict(zip(VARIED, self.bases, strict=True))
        return [
            (name, float(base[name] / 10), float(base[name] * 10)) if what else (name, HELD[name], HELD[name])
            for name, what in PARAMETERS.items()
        ]


def population(types: int, clones: int, seed: int) -> list[Spec]:
    """Types of different shape, their clones of equal shape; the bases differ between all."""
    cells = []
    typical = np.array([what[2] for what in PARAMETERS.values() if what])
    for number in range(types):
        rng = np.random.default_rng([seed, number])
        cable = Cable(_sections(rng))
        of_type = rng.uniform(-_SPREAD, _SPREAD, len(typical))
        seen: dict[str, int] = {}
        probes = []
        for region, distance in zip(cable.regions, cable.distances, strict=True):
            probes.append((f"{region}_{seen.setdefault(region, 0)}", float(distance)))
            seen[region] += 1
        for clone in range(1, clones + 1):
            shift = (of_type + rng.uniform(-_SPREAD, _SPREAD, len(typical))) / 2
            cells.append(Spec(f"demo{number + 1:03d}", clone, cable, tuple(probes), typical * 10**shift))
    return cells


def _sections(rng: np.random.Generator) -> list[Section]:
    """A soma, an axon, an apical and two basal dendrites."""
    long, wide = rng.uniform(0.8, 1.25, 5), rng.uniform(0.9, 1.1, 5)
    return [
        Section("soma", -1, 1, 20 * long[0], 20 * wide[0]),
        Section("axon", 0, 4, 200 * long[1], 1.8 * wide[1]),
        Section("apic", 0, 4, 260 * long[2], 3.5 * wide[2]),
        Section("dend", 0, 2, 110 * long[3], 2.5 * wide[3]),
        Section("dend", 0, 2, 140 * long[4], 2.5 * wide[4]),
    ]


def stimulus(bins: int) -> np.ndarray:
    """(bins,) nA into the soma: silence, a hyperpolarising step, then steps of noise whose mean rises and falls."""
    share = np.arange(bins) / bins
    rng = np.random.default_rng(5)
    noise, value, decay = np.empty(bins), 0.0, np.exp(-STEP / 3.0)
    for n, kick in enumerate(rng.normal(0, np.sqrt(1 - decay**2), bins)):
        value = value * decay + kick
        noise[n] = value
    edges = [0.05, 0.22, 0.27, 0.42, 0.47, 0.65, 0.70, 0.88]
    means = np.array([0, -0.25, 0, 0.35, -0.05, 0.8, 0.1, 1.6, 0])[np.searchsorted(edges, share, side="right")]
    swing = np.where(share < edges[2], 0, 0.15 + 0.3 * np.abs(means))
    return means + swing * noise


def record(cell: Spec, unit: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Simulated voltages at every compartment.

    Args:
        unit: (N, K) of the varied parameters.
        current: (bins,) nA.

    Returns:
        (N, bins, C) int16, in units of `COUNT` mV.
    """
    conductance = cell.bases * 10**unit
    densities: dict[tuple[str, str], np.ndarray] = {}
    for name, column in zip(VARIED, conductance.T, strict=True):
        region, channel, _ = PARAMETERS[name] or ("", "", 0.0)
        densities[region, channel] = column
    for region in ("axon", "apic", "dend"):
        densities[region, "pas"] = np.full(len(unit), HELD["g_pas_fixed_axonal"])
    settling = len(current) // SETTLING
    driven = np.concatenate([np.zeros(settling), current])
    frames = np.empty((len(current), len(cell.cable), len(unit)), np.int16)
    for n, voltages in enumerate(simulate(cell.cable, densities, driven, STEP)):
        if n >= settling:
            np.rint(voltages * np.float32(1 / COUNT), out=frames[n - settling], casting="unsafe")
    return np.ascontiguousarray(frames.transpose(2, 0, 1))
