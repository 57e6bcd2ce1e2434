"""The methods of skeleton action recognition: tensors in, tensors out; nothing here opens a file or knows a cluster.

    method = acsar.build("scdnet")
    features = method.encode(joints)

The names below are looked up when they are first used, so that code which wants the layouts alone (packing) does without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acsar.recipes import RECIPES, build
    from acsar.types import Batch, Method

__all__ = ["RECIPES", "Batch", "Method", "build"]
HOMES = {"RECIPES": "acsar.recipes", "build": "acsar.recipes", "Batch": "acsar.types", "Method": "acsar.types"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'acsar' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
