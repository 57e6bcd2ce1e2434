"""acsar.nearest against every cosine in float64, in both types of rough products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acsar import nearest as module
from acsar.nearest import nearest

ROUGH = (torch.float32, torch.bfloat16)


@pytest.fixture(params=ROUGH, ids=str)
def rough(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Rough products in this type, whatever the processor has."""
    monkeypatch.setattr(module, "_rough_type", lambda x: request.param)
    return request.param  # type: ignore[no-any-return]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(queries: Tensor, gallery: Tensor) -> Tensor:
    a, b = (x.double() / x.double().norm(dim=1, keepdim=True).clamp_min(1e-300) for x in (queries, gallery))
    found: Tensor = torch.linalg.vecdot(a[:, None], b[None])
    return found


def literal(gallery: Tensor, queries: Tensor) -> list[int]:
    found = cosines(queries, gallery)
    return [int(torch.nonzero(row >= row.max() - module.TIE)[0]) for row in found]


@pytest.mark.parametrize("shift", [0.0, 5.0, 100.0])
@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_it_is_the_largest_cosine_however_rough_the_products(rough: torch.dtype, shift: float, rows: int) -> None:
    gallery, queries = noise(300, 40) + shift, noise(50, 40, seed=1) + shift
    assert nearest(gallery, queries, rows).tolist() == literal(gallery, queries)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(1, 40))
def test_small_whole_numbers_tie_often_and_the_first_row_wins(seed: int, count: int, asked: int, size: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gallery, queries = (torch.randint(-1, 2, (n, size), generator=generator).float() for n in (count, asked))
    assert nearest(gallery, queries, rows).tolist() == literal(gallery, queries)


def test_the_bound_holds(rough: torch.dtype) -> None:
    for seed, shift in enumerate((0.0, 3.0, 30.0)):
        gallery, queries = noise(80, 700, seed=seed) + shift, noise(60, 700, seed=10 + seed) * 100 + 50 * shift
        centre = torch.nn.functional.normalize(gallery).mean(0)
        block, asked = (module._prepared(x, centre, rough) for x in (gallery, queries))
        found, bound = module._rough_cosines(asked, block)
        off = (found + asked.own[:, None] - cosines(queries, gallery)).abs()
        assert bool((off <= bound[:, None]).all())
        assert float(off.max()) > 0 and float(bound.max()) < (0.02 if rough == torch.bfloat16 else 1e-3)


def test_rows_that_the_rough_type_cannot_tell_apart(rough: torch.dtype) -> None:
    gallery = 1 + 1e-4 * noise(200, 30)
    gallery[150:] = gallery[50:100]
    queries = torch.cat([gallery[150:170] * 3, 1 + 1e-4 * noise(20, 30, seed=1)])
    found = nearest(gallery, queries, 64).tolist()
    assert found == literal(gallery, queries) and found[:20] == list(range(50, 70))
    assert nearest(torch.ones(90, 5), torch.ones(3, 5), 32).tolist() == [0, 0, 0]


def test_few_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    exact = module._exact

    def counted(queries: module._Rows, block: module._Rows, pairs: Tensor) -> Tensor:
        looked.append(len(pairs))
        return exact(queries, block, pairs)

    monkeypatch.setattr(module, "_exact", counted)
    nearest(noise(2000, 64) + 3, noise(100, 64, seed=1) + 3, 500)
    assert 100 <= sum(looked) < 100 * 2000 / 50


def test_rows_of_zeros_and_none_at_all(rough: torch.dtype) -> None:
    gallery = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [-1.0, -1.0]]) * 1e-42
    assert nearest(gallery, torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]])).tolist() == [1, 0, 0]
    assert nearest(gallery, torch.zeros(0, 2)).tolist() == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    broken = noise(4, 3)
    broken[2, 1] = bad
    for gallery, queries in ((broken, noise(2, 3)), (noise(2, 3), broken)):
        with pytest.raises(ValueError, match="not finite"):
            nearest(gallery, queries)
