"""Sparse 3-D convolution: voxels (`Sites`), and layers between them."""

from models.cellnet.sparse.conv import StridedConv3d, SubmanifoldConv3d, TransposedConv3d
from models.cellnet.sparse.maps import Sites

__all__ = ["Sites", "StridedConv3d", "SubmanifoldConv3d", "TransposedConv3d"]
