"""XTCAV: what a streak camera's images of an electron beam tell about the X-ray pulse (LCLS, amo86815, 2016)."""

from models.xtcav.family import XtcavFamily

FAMILY = XtcavFamily()
