"""CellSpike: what the membrane voltage of a neuron tells about its ion channels (ONTRA, BBP3)."""

from models.cellspike.family import CellSpikeFamily

FAMILY = CellSpikeFamily()
