"""CellNet: ghosts told from real voxels, and their charge, in tiled wire readout of liquid-argon detectors."""

from models.cellnet.family import CellNetFamily

FAMILY = CellNetFamily()
