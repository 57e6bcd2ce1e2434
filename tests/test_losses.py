"""The contrasts against literal loops and the published code's value."""

import math

import pytest
import torch
from torch import Tensor

from acsar.losses import equal_captions, info_nce, text_contrast, text_contrast_rows


def unit(n: int, scale: float, d: int = 4) -> Tensor:
    rows = torch.sin(scale * (torch.arange(n * d, dtype=torch.float64) + 1)).view(n, d)
    return rows / rows.norm(dim=1, keepdim=True)


def test_the_published_value() -> None:
    q_t, q_s, q_g, k_t, k_s, k_g = (unit(3, 0.5 + 0.3 * j) for j in range(6))
    queue_t, queue_s, queue_g = (unit(6, 2.1 + 0.2 * j) for j in range(3))
    terms = [
        info_nce(q_t, k_g, queue_g, 0.2),
        info_nce(q_s, k_g, queue_g, 0.2),
        info_nce(q_g, k_t, queue_t, 0.2),
        info_nce(q_g, k_s, queue_s, 0.2),
    ]
    assert [float(x) for x in terms] == pytest.approx([2.5771981131, 1.7331215099, 4.6004762738, 2.1958088077], abs=1e-9)
    assert float(sum(terms)) == pytest.approx(11.1066047045, abs=1e-9)


def test_info_nce_is_its_formula() -> None:
    q, k, queue, tau = unit(3, 0.5), unit(3, 0.8), unit(5, 2.1), 0.3
    total = 0.0
    for i in range(3):
        h = [math.exp(float(q[i] @ m) / tau) for m in [k[i], *queue]]
        total -= math.log(h[0] / sum(h))
    assert float(info_nce(q, k, queue, tau)) == pytest.approx(total / 3, rel=1e-12)


def test_info_nce_gives_gradient_to_the_query_alone() -> None:
    q, k, queue = (unit(3, s).requires_grad_() for s in (0.5, 0.8, 2.1))
    info_nce(q, k, queue, 0.2).backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None


def test_logits_keep_their_precision_under_autocast() -> None:
    q, k, queue = (unit(3, s, 32).float() for s in (0.5, 0.8, 2.1))
    with torch.autocast("cpu", torch.bfloat16):
        loss, cross = info_nce(q, k, queue, 0.07), text_contrast(q, k, 0.07)
    assert loss.dtype == cross.dtype == torch.float32
    assert torch.equal(loss, info_nce(q, k, queue, 0.07))
    assert torch.equal(cross, text_contrast(q, k, 0.07))


def literal(skeleton: Tensor, text: Tensor, tau: float, ids: list[int], rule: str) -> float:
    n, total = len(text), 0.0
    for u, v in ((text, skeleton), (skeleton, text)):
        for i in range(n):
            same = [j for j in range(n) if ids[j] == ids[i]]
            columns = [j for j in range(n) if rule != "masked" or j == i or j not in same]
            scores = {j: float(u[i] @ v[j]) / tau for j in columns}
            log_sum = math.log(sum(math.exp(s) for s in scores.values()))
            targets = same if rule == "positives" else [i]
            total -= sum(scores[j] - log_sum for j in targets) / len(targets) / n
    return total / 2


@pytest.mark.parametrize("rule", ["paper", "positives", "masked"])
def test_text_contrast_is_its_formula(rule: str) -> None:
    skeleton, text, ids = unit(5, 0.5), unit(5, 1.3), [0, 1, 0, 2, 0]
    value = text_contrast(skeleton, text, 0.15, torch.tensor(ids), rule)
    assert float(value) == pytest.approx(literal(skeleton, text, 0.15, ids, rule), rel=1e-12)


@pytest.mark.parametrize("rule", ["paper", "positives", "masked"])
def test_distinct_captions_make_the_rules_equal_and_the_two_sides_symmetric(rule: str) -> None:
    skeleton, text, ids = unit(5, 0.5), unit(5, 1.3), torch.arange(5)
    value = text_contrast(skeleton, text, 0.15, ids, rule)
    assert torch.allclose(value, text_contrast(skeleton, text, 0.15))
    assert torch.allclose(value, text_contrast(text, skeleton, 0.15, ids, rule))


def test_a_rule_for_equal_captions_needs_ids() -> None:
    with pytest.raises(ValueError, match="needs the captions' ids"):
        text_contrast(unit(2, 0.5), unit(2, 1.3), 0.15, None, "masked")


@pytest.mark.parametrize("rule", ["paper", "positives", "masked"])
def test_rows_without_caption_are_left_out_as_row_and_as_column(rule: str) -> None:
    ids = torch.tensor([0, -1, 0, 2, -1, 2, 3])
    has = ids >= 0
    whole = [unit(7, s).requires_grad_() for s in (0.5, 1.3)]
    value = text_contrast(*whole, 0.15, ids, rule, has_text=has)
    some = [unit(7, s)[has].requires_grad_() for s in (0.5, 1.3)]
    expected = text_contrast(*some, 0.15, ids[has], rule)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()
    expected.backward()
    for a, b in zip(whole, some):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad[has], b.grad, rtol=1e-12, atol=1e-15)
        assert not a.grad[~has].any()
    assert value.item() != pytest.approx(text_contrast(unit(7, 0.5), unit(7, 1.3), 0.15, ids, rule).item(), rel=1e-3)


@pytest.mark.parametrize("rule", ["paper", "positives", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_in_which_no_row_or_one_row_or_every_row_has_a_caption(rule: str, dtype: torch.dtype) -> None:
    skeleton, text = unit(5, 0.5).to(dtype).requires_grad_(), unit(5, 1.3).to(dtype)
    for count in (0, 1):
        has = torch.arange(5) < count
        value = text_contrast(skeleton, text, 0.001, torch.where(has, 1, -1), rule, has_text=has)
        (gradient,) = torch.autograd.grad(value, skeleton)
        assert value.item() == 0 and not gradient.any()
    every = text_contrast(skeleton, text, 0.15, torch.arange(5) // 2, rule, has_text=torch.ones(5, dtype=torch.bool))
    assert torch.allclose(every, text_contrast(skeleton, text, 0.15, torch.arange(5) // 2, rule))


def test_what_each_row_adds_has_the_loss_as_its_mean() -> None:
    skeleton, text, ids = unit(5, 0.5), unit(5, 1.3), torch.arange(5) // 2
    for rule in ("paper", "positives", "masked"):
        rows = text_contrast_rows(skeleton, text, 0.15, ids, rule)
        assert rows.shape == (5,)
        assert torch.allclose(rows.mean(), text_contrast(skeleton, text, 0.15, ids, rule), rtol=1e-12)


def test_share_of_equal_captions() -> None:
    assert equal_captions(torch.tensor([1, 2, 1, 3])) == 0.5
    assert equal_captions(torch.arange(4)) == 0.0
    assert equal_captions(torch.zeros(4)) == 1.0
