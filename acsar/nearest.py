"""The exact nearest neighbour by cosine: rough products leave few rows to look at, and those are compared in float64.

For a query u and a gallery row v, both of length one, and any c, let a = u-c and b = v-c. Then

    <u,v> = <a,b> + (<u,c> - |c|^2/2) + (<v,c> - |c|^2/2)

and only <a,b> needs a product per pair. With c the mean of the gallery it is small where all features point one way, as those of encoders
do. Of a and b a rough type keeps a' and b', and by Cauchy-Schwarz, with the lengths that these very rows have,

    |<a,b> - <a',b'>| <= |a-a'| |b| + |a'| |b-b'|

A sum of D products in float32, in whatever order, is off by at most 2^-23 D |a'| |b'|, and writing it as bfloat16 by 2^-8 of itself. A row
whose rough cosine lies further below the best one than these bounds allow cannot be the nearest; the others are looked at.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from acsar.dense import fastest

TIE = 2.0**-40  # cosines that differ by less are equal: so much do float64 sums differ in another order
SLACK = 2.0**-19  # more than float32 loses in u, v, a, b, and in adding the three terms up
PAIRS = 128  # pairs that are compared at once
DENSE = 64  # where more than one pair in so many of a block is left, the block is multiplied in float64 instead


class _Rows(NamedTuple):
    """Some rows: as they came [n,D]; 1 / length [n], 0 for a row of zeros; the term of the sum above that is theirs alone [n];
    a' or b' [n,D]; its length [n]; the length of what it leaves out [n]. The second and third are float64."""

    plain: Tensor
    inverse: Tensor
    own: Tensor
    rough: Tensor
    length: Tensor
    lost: Tensor


def nearest(gallery: Tensor, queries: Tensor, rows: int = 1024) -> Tensor:
    """[q] int64: of each query the gallery row with the largest cosine; of equal ones (within 2^-40), the smallest index.

    gallery [n,D], queries [q,D], n > 0; a row of zeros has cosine 0 with everything. Cosines are those of the values as they are,
    summed in float64, so the answer depends on neither block size, threads nor machine. Computed on the queries' device; memory beyond
    the inputs: the queries in the rough type and a few blocks of `rows` rows. Raises ValueError for features that are not finite."""
    device = queries.device
    centre = torch.zeros(gallery.shape[1], device=device)
    for start in range(0, len(gallery), rows):
        centre += _unit(gallery[start : start + rows].to(device), centre)[0].sum(0) / len(gallery)
    rough = _rough_type(queries)
    parts = [_prepared(queries[start : start + rows], centre, rough) for start in range(0, len(queries), rows)]
    best = [torch.full((len(part.plain),), -torch.inf, dtype=torch.float64, device=device) for part in parts]
    index = [torch.zeros(len(part.plain), dtype=torch.int64, device=device) for part in parts]
    for start in range(0, len(gallery), rows):
        block = _prepared(gallery[start : start + rows].to(device), centre, rough)
        for part, value, where in zip(parts, best, index):
            found, at = _best(part, block, value)
            nearer = found > value + TIE
            value[nearer], where[nearer] = found[nearer], at[nearer] + start
    return torch.cat(index) if index else torch.zeros(0, dtype=torch.int64, device=device)


def _best(queries: _Rows, block: _Rows, known: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine [q] of each query within a block, and its row [q]; -inf where no row can come up to the `known` [q] cosine."""
    cosines, bound = _rough_cosines(queries, block)
    top = cosines.amax(1)
    limit = torch.maximum(top - bound, (known - queries.own).float()) - bound
    some = torch.nonzero(top >= limit).flatten()
    left = torch.nonzero(cosines[some] >= limit[some, None])
    left[:, 0] = some[left[:, 0]]
    if len(left) * DENSE > cosines.numel():
        exact = (queries.plain.double() @ block.plain.double().T) * (queries.inverse[:, None] * block.inverse)
        left = torch.nonzero(exact >= exact.max(1, keepdim=True).values - TIE)
        values = exact[left[:, 0], left[:, 1]]
    else:
        values = torch.cat([known[:0], *(_exact(queries, block, left[start : start + PAIRS]) for start in range(0, len(left), PAIRS))])
    best = torch.full_like(known, -torch.inf).scatter_reduce(0, left[:, 0], values, "amax")
    tied = left[values >= best[left[:, 0]] - TIE]
    first = torch.full((len(known),), len(block.plain), device=known.device).scatter_reduce(0, tied[:, 0], tied[:, 1], "amin")
    return best, first


def _rough_cosines(queries: _Rows, block: _Rows) -> tuple[Tensor, Tensor]:
    """Cosines [q,n] less each query's own term, in float32, and how far those of a query can be off [q]."""
    size = queries.plain.shape[1]
    cosines = fastest(queries.rough, block.rough.T).float()
    length, lost = block.length.max(), block.lost.max()
    bound = queries.lost * (length + lost) + queries.length * lost + size * 2.0**-23 * queries.length * length
    if queries.rough.dtype == torch.bfloat16:
        bound += 2.0**-8 * torch.maximum(cosines.amax(1), -cosines.amin(1))
    return cosines.add_(block.own.float()), bound * (1 + size * 2.0**-23) + SLACK


def _exact(queries: _Rows, block: _Rows, pairs: Tensor) -> Tensor:
    """Cosines [p] in float64 of pairs [p,2] of a query and a row of the block."""
    q, g = pairs.unbind(1)
    return (queries.plain[q].double() * block.plain[g].double()).sum(1) * (queries.inverse[q] * block.inverse[g])


def _prepared(plain: Tensor, centre: Tensor, rough: torch.dtype) -> _Rows:
    unit, inverse, along = _unit(plain, centre)
    rest = unit.sub_(centre)
    kept = rest.to(rough)
    lost = torch.linalg.vector_norm(rest - kept.float(), dim=1)
    own = along - centre.double().square().sum() / 2
    return _Rows(plain, inverse, own, kept, torch.linalg.vector_norm(kept.float(), dim=1), lost)


def _unit(plain: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [n,D] of length one in float32 (zeros stay zeros), and in float64 1 / length [n] and their products with the centre [n]."""
    unit = torch.empty(plain.shape, device=plain.device)
    inverse, along = (torch.empty(len(plain), dtype=torch.float64, device=plain.device) for _ in range(2))
    for start in range(0, len(plain), PAIRS):
        here = slice(start, start + PAIRS)
        exact = plain[here].double()
        length = torch.linalg.vector_norm(exact, dim=1)
        inverse[here] = torch.where(length > 0, 1 / length, 0)
        unit[here] = exact.mul_(inverse[here, None])
        along[here] = exact @ centre.double()
    if not bool(torch.isfinite(inverse + along).all()):
        raise ValueError("features are not finite")
    return unit, inverse, along


def _rough_type(x: Tensor) -> torch.dtype:
    """bfloat16 where the processor multiplies it faster than float32."""
    return torch.bfloat16 if x.is_cpu and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()) else torch.float32
