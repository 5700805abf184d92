"""timm, also where torchvision's compiled operators do not fit torch, as beside a torch built for the CPU alone."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import torch

_ABSENT = re.compile(r"operator torchvision::(\w+) does not exist")
_MOST = 20
_declared: list[torch.library.Library] = []  # a declaration lasts as long as its library


def timm() -> ModuleType:
    """The library timm, imported.

    It imports torchvision, which dies where its operators (nms and qnms, for boxes around objects) are not compiled
    in. No network here has use for them: they are declared, without anything behind them, and the import goes on.
    """
    for _ in range(_MOST):
        try:
            importlib.import_module("torchvision")
            break
        except RuntimeError as error:
            absent = _ABSENT.search(str(error))
            if absent is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{absent[1]}() -> ()")
            _declared.append(library)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
    return importlib.import_module("timm")
