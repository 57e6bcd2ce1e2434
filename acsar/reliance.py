"""Is the text used? The text contrast with captions exchanged within a batch, minus the contrast with the true ones.

FiLM's offset can copy the skeleton's feature, so the loss may fall while the captions are ignored; then this difference is near zero.
"""

import torch
from torch import Tensor

from acsar.draws import uniform

# Views 0 and 1 are the query's and the key's.
VIEW = 2


def exchange(text_id: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, partners), both [n] int64: sample rows[i] gets the caption of partners[i], never one equal to its own.

    A function of text_id [B] and draws [B]. n = B unless one caption holds the majority: then as many of its samples as have no partner
    are left out. n = 0 with fewer than two distinct captions."""
    u = uniform(draws, VIEW, 1)[:, 0].double()
    _, group, sizes = text_id.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    largest, most = int(sizes.argmax()), int(sizes.max())
    surplus = max(0, 2 * most - len(text_id))
    order = u.argsort(stable=True)
    if surplus:
        majority = order[group[order] == largest]
        order = order[~torch.isin(order, majority[:surplus])]
        most -= surplus
    # Equal captions side by side, in random order of captions: moving on by the largest group's size always leaves the own group.
    place = torch.ones_like(sizes, dtype=u.dtype).scatter_reduce(0, group, u, "amin")
    rows = order[place[group[order]].argsort(stable=True)]
    return rows, rows.roll(-most)
