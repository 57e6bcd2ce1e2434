"""Which training samples of a set are labelled when only a part is: a function of set, protocol, fraction, seed and draw alone.

Every stream, and every way to use the labels, gets the same ones; a smaller part lies inside a larger one of the same seed and draw.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from shards.errors import InputError

Draw = Literal["unbalanced", "balanced"]


def subset(
    keys: Sequence[str], labels: Sequence[int], content_id: str, protocol: str, fraction: float, seed: int, draw: Draw = "unbalanced"
) -> list[str]:
    """The labelled ones of n training keys (with their labels [n]), sorted.

    unbalanced: the first int(fraction * n) of a random order, whatever their classes (CMD's and MAMP's code); balanced: the first
    round(fraction * n_c) of each class's n_c (AimCLR's code). The order is that of the sha256 of content id, protocol, seed and key.
    Raises InputError for a fraction that is none, and where fewer samples are labelled than the training part has classes."""
    if not 0 < fraction <= 1:
        raise InputError(f"a fraction of {fraction:g} labels nothing, or more than there is; give a share such as 0.01, 1 at most")
    base = f"{content_id}:{protocol}:{seed}:".encode()
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(base + keys[i].encode()).digest())
    if draw == "unbalanced":
        chosen = order[: int(fraction * len(order))]
    else:
        members = defaultdict[int, list[int]](list)
        for i in order:
            members[labels[i]].append(i)
        chosen = [i for found in members.values() for i in found[: round(fraction * len(found))]]
    classes = len(set(labels))
    if len(chosen) < classes:
        raise InputError(
            f"a fraction of {fraction:g} labels {len(chosen)} of {len(keys)} training samples ({draw}), fewer than their {classes} "
            f"classes; use {math.ceil(1000 * classes / max(1, len(keys))) / 1000:g} or more"
        )
    return sorted(keys[i] for i in chosen)


def unlabelled_classes(keys: Sequence[str], labels: Sequence[int], chosen: Sequence[str]) -> int:
    """How many classes of the training part have no sample among the chosen keys: no classifier can name them."""
    named = set(chosen)
    return len(set(labels) - {label for key, label in zip(keys, labels) if key in named})
