"""torchvision beside a torch it was not compiled for: its C++ operators are missing, and `import torchvision` fails.

open_clip, timm, ultralytics and transformers import torchvision and need at most its box operator (non-maximum suppression), so that one
is given in plain torch. Where torchvision works as installed nothing is touched."""

import importlib
import sys

import torch
from torch import Tensor


def mend_torchvision() -> bool:
    """Make `import torchvision` work; call it before the first import of anything that needs it. True if it had to be mended.

    Raises ImportError when torchvision is not installed (the `caption` extra has it)."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return False
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold)", "qnms(Tensor dets, Tensor scores, float iou_threshold)"):
        torch.library.define(f"torchvision::{schema.partition('(')[0]}", f"({schema.partition('(')[2]} -> Tensor")
        torch.library.impl(f"torchvision::{schema.partition('(')[0]}", "default", suppress)
    importlib.import_module("torchvision")
    for home in ("torchvision.ops", "torchvision.ops.boxes"):
        vars(sys.modules[home])["nms"] = suppress  # theirs asks for the compiled extension first
    return True


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: indices of boxes [n,4] (x1, y1, x2, y2) that no box of higher score overlaps by more than the threshold
    of their union, highest score first. -> [k] int64"""
    order = scores.argsort(descending=True, stable=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        inner = torch.minimum(boxes[best, 2:], boxes[rest, 2:]) - torch.maximum(boxes[best, :2], boxes[rest, :2])
        shared = inner.clamp(min=0).prod(1)
        order = rest[shared <= iou_threshold * (area[best] + area[rest] - shared)]
    return torch.stack(kept) if kept else order
