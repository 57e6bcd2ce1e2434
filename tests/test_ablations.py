"""The paper's ablations: the interactions against their formulas, the forms of text, and every row as a configuration that trains."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import acsar
from acsar.ablations import ABLATIONS, TEXTS, Row, configured, rows_of
from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.agreement import agreement
from acsar.film import TextBranch, initialise
from acsar.recipes import RECIPES
from acsar.scdnet import SCDNetConfig
from acsar.types import Batch

L, D, OUT = 5, 3, 4
TINY: dict[str, Any] = {"c1": 8, "width": 16, "heads": 2, "out": 8, "queue": 8, "dropout": 0.0}
SHAPES = {"word": (5, 6), "sentence": (1, 6), "undecoded75": (4, 9), "undecoded512": (7, 9)}  # captions by their names, other ones as words
BASES = ("acsar", "acsar-small", "demo")


def branch(interaction: str, tokens: int = L, mask_padding: bool = False) -> TextBranch:
    part = TextBranch(tokens, D, OUT, 6, interaction, mask_padding).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in part.parameters():
            p.normal_(generator=generator)
    return part


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_linear_and_gated_fusion_are_their_formulas() -> None:
    text, q = drawn(2, L, D), drawn(2, OUT, seed=2)
    for interaction in ("linear", "gated"):
        part = branch(interaction)
        t, found = part.embed(text).detach(), part(text, q)
        for i in range(2):
            both = [*t[i].tolist(), *q[i].tolist()]
            mixed = [sum(w * x for w, x in zip(row, both)) + b for row, b in zip(part.mix.weight.tolist(), part.mix.bias.tolist())]
            gates = [1 / (1 + math.exp(-m)) for m in mixed]
            gated = [g * float(t[i, c]) + (1 - g) * float(q[i, c]) for c, g in enumerate(gates)]
            assert found[i].tolist() == pytest.approx(mixed if interaction == "linear" else gated, abs=1e-12)


def attended(part: TextBranch, text: Tensor, q: Tensor, tokens: range) -> Tensor:
    """Cross-attention of one caption [L,D] and one skeleton [out], to some of the tokens, in words of the docstring."""
    asked = part.query.weight @ q + part.query.bias
    weights = [math.exp(float(asked @ (part.key.weight @ text[i] + part.key.bias)) / math.sqrt(OUT)) for i in tokens]
    values = torch.stack([part.value.weight @ text[i] + part.value.bias for i in tokens])
    return torch.tensor(weights, dtype=torch.float64) @ values / sum(weights)


def test_cross_attention_is_its_formula_and_can_leave_padding_out() -> None:
    text, q, valid = drawn(3, L, D), drawn(3, OUT, seed=2), torch.tensor([2, 5, 0])
    text[2, 3:] = 0
    plain, masked = branch("cross-attention"), branch("cross-attention", mask_padding=True)
    for i, seen in enumerate((range(2), range(5), range(3))):
        assert torch.allclose(plain(text, q, valid)[i], attended(plain, text[i], q[i], range(L)), atol=1e-12)
        assert torch.allclose(masked(text, q, valid)[i], attended(masked, text[i], q[i], seen), atol=1e-12)
    # a sample without caption gives a number too: the loss leaves it out, and 0 times nan would be nan
    assert masked(torch.zeros(1, L, D), q[:1], torch.tensor([0])).isfinite().all()


def test_cross_attention_cannot_copy_the_skeleton() -> None:
    part, q = branch("cross-attention"), drawn(6, OUT, seed=2)
    same = part(drawn(1, 1, D).expand(6, L, D), q)  # a caption of one word over and over: whoever asks, that is the answer
    assert torch.allclose(same, same[:1].expand_as(same), atol=1e-12)


def test_a_sentence_has_its_features_in_the_scores_place() -> None:
    part, text, q = branch("film", tokens=1), drawn(2, 1, D), drawn(2, OUT, seed=2)
    assert part.score is None and part.shape == (1, D)
    hidden = (text[:, 0] @ part.first.weight.T + part.first.bias).clamp(min=0)
    embedded = hidden @ part.second.weight.T + part.second.bias
    assert torch.allclose(part.embed(text), embedded)
    assert torch.allclose(part(text, q), (q @ part.gamma.weight.T + part.gamma.bias) * embedded + q @ part.beta.weight.T + part.beta.bias)
    with pytest.raises(ValueError, match="cross-attention chooses among a caption's tokens"):
        branch("cross-attention", tokens=1)


@pytest.mark.parametrize("interaction", ["linear", "gated", "cross-attention"])
def test_agreement_of_every_interaction_is_its_formula(interaction: str) -> None:
    part, z, own = TextBranch(L, D, OUT, 6, interaction, False), drawn(5, OUT).float(), torch.tensor([0, 2, 2, 1, 3])  # type: ignore[arg-type]
    initialise(part, torch.Generator().manual_seed(0))
    captions = part.embed(drawn(4, L, D, seed=2)).detach()
    found = agreement(part, z, captions, own, 2)
    for i in range(5):
        with torch.no_grad():
            fits = torch.cosine_similarity(part.modulate(captions, z[i].expand(4, OUT)).double(), z[i].double()[None])
        others = [float(fits[j]) for j in range(4) if j != own[i]]
        assert float(found[i]) == pytest.approx(float(fits[own[i]]) - sum(others) / 3, abs=1e-6)


def every_row() -> list[tuple[str, Row]]:
    return [(name, row) for name, ablation in ABLATIONS.items() for row in ablation.rows]


def test_rows_are_the_papers() -> None:
    """AC-SAR reference, section 5.4 and 5.2: how many lines, which numbers, one line of each that is AC-SAR as proposed."""
    counts = {name: len(ablation.rows) for name, ablation in ABLATIONS.items()}
    assert counts == {"6": 5, "7": 5, "8": 4, "9": 3, "figure5": 5, "captioner": 3, "stem": 4}
    base = RECIPES["acsar"].method
    assert isinstance(base, ACSARConfig)
    for name, ablation in ABLATIONS.items():
        assert len({row.name for row in ablation.rows}) == len(ablation.rows)
        proposed = next(row for row in ablation.rows if row.name == ablation.proposed)
        assert (configured(proposed, base), proposed.texts, proposed.published) == (base, "word", 87.3), name
        assert all(row.texts in ("", *TEXTS) for row in ablation.rows)
        for row in ablation.rows:
            assert (name, row.name) in rows_of(replace(configured(row, base), stream="bone"), base, row.texts)
    assert configured(ABLATIONS["6"].rows[0], base) == RECIPES["scdnet"].method  # the baseline is SCD-Net as published
    assert rows_of(replace(base, tau=0.3), base, "word") == []


@pytest.mark.parametrize("recipe", BASES)
def test_every_row_builds_over_every_base_recipe(recipe: str) -> None:
    """At the recipe's own size (on no memory), with the captions that the row needs."""
    base = RECIPES[recipe].method
    assert isinstance(base, ACSARConfig)
    for _, row in every_row():
        config = configured(row, base)
        assert isinstance(config, ACSARConfig) == bool(row.texts)
        assert {name: getattr(config, name) for name in row.changes} == row.changes
        assert (config.width, config.queue, config.tau) == (base.width, base.queue, base.tau)
        if isinstance(config, ACSARConfig):
            with torch.device("meta"):
                TextBranch(*SHAPES.get(row.texts, SHAPES["word"]), config.out, config.out, config.interaction, config.mask_padding)


def test_every_row_trains() -> None:
    """One forward and backward pass of each distinct line, tiny: finite losses, a gradient everywhere."""
    generator, base = torch.Generator().manual_seed(0), ACSARConfig(**TINY)
    joints, draws = torch.randn(3, 3, 64, 25, 2, generator=generator), torch.arange(3) * 7919
    done: set[tuple[SCDNetConfig, tuple[int, int]]] = set()
    for name, row in every_row():
        config, shape = configured(row, base), SHAPES.get(row.texts, SHAPES["word"])
        if (config, shape) in done:
            continue
        done.add((config, shape))
        method = acsar.build(config, text_shape=shape, seed=0).train()
        text = torch.randn(3, *shape, generator=generator) if row.texts else None
        losses = method(Batch(joints, torch.full((3,), 64), draws, ["a", "b", "c"], text, torch.arange(3) if row.texts else None))
        assert list(losses) == ["gs", "gt", "sg", "tg", *(["text"] if row.texts else [])], (name, row.name)
        torch.stack(list(losses.values())).sum().backward()
        if isinstance(method, ACSAR):
            # (attention does not see a bias that all tokens share)
            some = {n: p for n, p in method.text.named_parameters() if n != "key.bias"}
            assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in some.values()), (name, row.name)
            assert math.isfinite(method.report(Batch(joints, torch.full((3,), 64), draws, ["a", "b", "c"], text))["text_reliance"])
    assert len(done) == 16
