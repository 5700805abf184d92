"""Cell Painting: from images of stained cells to features of single cells and profiles of wells (DeepProfiler)."""

from models.cellprofiler.family import CellprofilerFamily

FAMILY = CellprofilerFamily()
