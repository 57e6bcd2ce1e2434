"""STREAM.classifier.safetensors: the linear classifier of a probe, and what a clip that it never saw has to go through first. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.run_folder import write_bytes
from jobs.weights import in_order
from shards.errors import InputError

# content_id to dtype: of the packed set that it was trained on; encoder: sha256 of the file that made its features; schedule: official
# or paper
FACTS = ("content_id", "format", "benchmark", "skeleton", "normalisation", "dtype", "protocol", "stream", "encoder", "schedule")


@dataclass(frozen=True)
class Classifier:
    """weight [N,D] and bias [N] float32 for features as the encoder gives them; the names of the N classes; the facts named in FACTS."""

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]
    facts: dict[str, str]

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [B,N] of features [B,D]."""
        return F.linear(features, self.weight, self.bias)


def set_facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a classifier says about the packed set that it was trained on: the facts up to dtype."""
    named = {name: str(manifest[name]) for name in ("content_id", "format", "benchmark", "skeleton")}
    return {**named, "normalisation": str(manifest["normalise"]), "dtype": str(manifest["options"].get("dtype", "float32"))}


def save(path: Path, classifier: Classifier) -> None:
    """Write the classifier whole or not at all; equal classifiers are equal files.

    Raises ValueError where shapes, classes and facts do not fit each other."""
    if misfit := _misfit(classifier):
        raise ValueError(f"{path}: {misfit}")
    state = {name: getattr(classifier, name).detach().float().cpu().contiguous() for name in ("weight", "bias")}
    facts = {**classifier.facts, "classes": json.dumps(list(classifier.classes), ensure_ascii=False)}
    write_bytes(path, in_order(safetensors.torch.save(state, facts)))


def load(path: Path) -> Classifier:
    """The classifier of a file. Raises InputError where there is none, or the file is another one."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in ("weight", "bias")}
        classes = tuple(map(str, json.loads(facts.pop("classes"))))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; probe or fine-tune that stream first") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no classifier ({error}); delete it and probe again") from None
    classifier = Classifier(state["weight"], state["bias"], classes, facts)
    if misfit := _misfit(classifier):
        raise InputError(f"{path} is no whole classifier ({misfit}); delete it and probe again")
    return classifier


def _misfit(classifier: Classifier) -> str:
    """What does not fit in words, "" where all does."""
    missing = [name for name in FACTS if name not in classifier.facts]
    if missing:
        return f"it does not say {', '.join(missing)}"
    weight, bias, count = classifier.weight, classifier.bias, len(classifier.classes)
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(weight) != count:
        return f"weight {tuple(weight.shape)} and bias {tuple(bias.shape)} for {count} classes"
    finite = bool(torch.isfinite(weight).all()) and bool(torch.isfinite(bias).all())
    return "" if finite else "its numbers are not finite"
