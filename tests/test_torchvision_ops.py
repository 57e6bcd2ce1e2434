"""The caption extra's libraries import on any torch, and the box operator in plain torch is the right one."""

import subprocess
import sys

import torch

from jobs.torchvision_ops import suppress


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Intersection over union of two boxes, number by number."""
    width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    union = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - width * height
    return width * height / union


def test_suppression_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(60, 2, generator=generator), torch.rand(60, 2, generator=generator) * 0.5 + 0.05
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(60, generator=generator)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i], boxes[j]) <= 0.4 for j in kept):
            kept.append(i)
    assert suppress(boxes, scores, 0.4).tolist() == kept and 5 < len(kept) < 55
    assert suppress(boxes[:0], scores[:0], 0.4).shape == (0,)


def test_the_caption_libraries_import() -> None:
    code = (
        "from jobs.torchvision_ops import mend_torchvision; mend_torchvision(); assert not mend_torchvision()\n"
        "import torch, torchvision, open_clip, timm, ultralytics, transformers\n"
        "from transformers import Ovis2ForConditionalGeneration\n"
        "boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]])\n"
        "assert torchvision.ops.nms(boxes, torch.tensor([.9, .8, .7]), .5).tolist() == [0, 2]\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
