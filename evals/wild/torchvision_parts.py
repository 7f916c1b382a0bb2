"""Make torchvision's Python parts importable where its compiled ones do not fit the installed torch.

Its wheels are built for torch with CUDA. Beside torch for CPUs they load no operators, and the import fails where
torchvision says what shapes these give. Their names are declared here, without kernels: what calls one fails and is
reported. Everything else, timm and all classifiers, is plain torch.
"""

import importlib.util

from torch import library

SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
NAMES = ("nms", "qnms")
"""The operators that torchvision describes without asking whether it has any."""
_KEPT = []


def declare():
    """Declare what torchvision's own library would, unless it does."""
    if not importlib.util.find_spec("torchvision"):
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        _KEPT.append(library.Library("torchvision", "DEF"))
        for name in NAMES:
            _KEPT[0].define(SCHEMA.format(name))
