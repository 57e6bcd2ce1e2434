"""Methods of self-supervised skeleton action recognition: tensors in, tensors out."""

from acsar.recipes import RECIPES, build
from acsar.types import Batch, Method

__all__ = ["RECIPES", "Batch", "Method", "build"]
