"""The caption branch against its formulas, and the measure of whether captions are used."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.augment import Augmentation
from acsar.film import TextBranch, initialise
from acsar.reliance import exchange
from acsar.skeleton import NTU25
from acsar.types import Batch


def branch(interaction: str = "film", mask_padding: bool = False) -> TextBranch:
    part = TextBranch(5, 3, 4, 6, interaction, mask_padding).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in part.parameters():
            p.normal_(generator=generator)
    return part


def words(n: int = 2) -> Tensor:
    return torch.randn(n, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_modulated_text_is_its_formula() -> None:
    part, text = branch(), words()
    q_g = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    out = part(text, q_g)
    for i in range(2):
        projected = torch.stack([part.score.weight[0] @ token + part.score.bias[0] for token in text[i]])
        hidden = (part.first.weight @ projected + part.first.bias).clamp(min=0)
        embedded = part.second.weight @ hidden + part.second.bias
        gamma, beta = (layer.weight @ q_g[i] + layer.bias for layer in (part.gamma, part.beta))
        assert torch.allclose(out[i], gamma * embedded + beta, atol=1e-12)


def test_without_interaction_the_text_stays() -> None:
    part, text = branch("none"), words()
    assert torch.equal(part(text, torch.zeros(2, 4)), part.embed(text))
    assert part.gamma is None


def test_masked_padding_ignores_the_bias_of_empty_tokens() -> None:
    text = words()
    text[:, 3:] = 0
    masked, plain = branch(mask_padding=True), branch()
    bias = masked.score.bias.item()
    assert not torch.allclose(masked.embed(text), plain.embed(text))
    with torch.no_grad():
        masked.score.bias.zero_()
        plain.score.bias.zero_()
    assert bias != 0
    assert torch.allclose(masked.embed(text), plain.embed(text))


def test_masked_padding_ignores_what_comes_after_the_end_token() -> None:
    text, valid = words(3), torch.tensor([2, 5, 0])
    masked, plain = branch(mask_padding=True), branch()
    other = text.clone()
    other[0, 2:] += 1
    other[2, 4] = 0
    assert torch.equal(masked.embed(text, valid)[0], masked.embed(other, valid)[0])
    assert torch.equal(masked.embed(text, valid)[1], plain.embed(text)[1])
    assert not torch.allclose(masked.embed(text, valid)[0], plain.embed(text)[0])
    scores = (text[0] @ masked.score.weight[0] + masked.score.bias) * torch.tensor([1, 1, 0, 0, 0])
    hidden = (masked.first.weight @ scores + masked.first.bias).clamp(min=0)
    assert torch.allclose(masked.embed(text, valid)[0], masked.second.weight @ hidden + masked.second.bias)
    # where the number is not known, zeros tell
    assert torch.equal(masked.embed(other, valid)[2], masked.embed(other)[2])
    # off, the number changes nothing, bit for bit
    assert torch.equal(plain.embed(text, valid), plain.embed(text))


def test_half_precision_features_are_taken() -> None:
    part = branch().float()
    assert part.embed(words().half()).dtype == torch.float32


def test_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text is \(4, 3\) per sample, the method was built for \(5, 3\)"):
        branch().embed(words()[:, :4])


def test_text_counts_from_the_start() -> None:
    part = branch()
    initialise(part, torch.Generator().manual_seed(0))
    zero = torch.zeros(2, 4, dtype=torch.float64)
    assert torch.equal(part(words(), zero), part.embed(words()))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=16), st.integers(0, 999))
def test_exchange_never_keeps_a_caption(ids: list[int], seed: int) -> None:
    text_id, draws = torch.tensor(ids), torch.arange(len(ids)) * 7919 + seed
    rows, partners = exchange(text_id, draws)
    assert not (text_id[rows] == text_id[partners]).any()
    assert sorted(rows.tolist()) == sorted(partners.tolist())
    assert len(set(rows.tolist())) == len(rows)
    most = max(Counter(ids).values())
    assert len(rows) == min(len(ids), 2 * (len(ids) - most))
    assert all(torch.equal(a, b) for a, b in zip((rows, partners), exchange(text_id, draws)))


CLASSES, TINY = 6, {"c1": 8, "width": 16, "heads": 2, "out": 16, "queue": 32, "dropout": 0.0}


def clips(n: int, seed: int, informative: bool) -> Batch:
    """Clips of six made-up motions; captions are the class's own words, or words drawn for each clip."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % CLASSES
    pose = torch.randn(CLASSES, 3, 1, 25, 1, generator=torch.Generator().manual_seed(0))
    time = torch.linspace(0, 1, 64).view(1, 1, 64, 1, 1)
    joints = pose[label] * torch.sin((label.view(-1, 1, 1, 1, 1) + 1) * 3 * time) + 0.1 * torch.randn(n, 3, 64, 25, 2, generator=generator)
    of_class = torch.randn(CLASSES, 5, 8, generator=torch.Generator().manual_seed(1))[label]
    of_clip = torch.randn(n, 5, 8, generator=generator)
    text, text_id = (of_class, label) if informative else (of_clip, torch.arange(n))
    draws = torch.randint(2**40, (n,), generator=generator)
    return Batch(joints, torch.full((n,), 64), draws, [str(i) for i in range(n)], text, text_id)


def trained(informative: bool, steps: int, prepare: str = "") -> ACSAR:
    quiet = Augmentation(probability=0.0)
    method = ACSAR(ACSARConfig(**TINY, augmentation=quiet, weight=1.0, duplicate_text="positives"), NTU25, (5, 8), seed=0).train()
    if prepare == "copy":
        with torch.no_grad():
            method.text.gamma.weight.zero_()
            method.text.gamma.bias.zero_()
            method.text.beta.weight.copy_(torch.eye(16))
            method.text.beta.bias.zero_()
        return method
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=5e-3)
    for step in range(steps):
        losses = method(clips(12, 100 + step, informative))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    return method


def test_reliance_is_small_when_captions_say_nothing() -> None:
    value = trained(informative=False, steps=30).report(clips(48, 7, informative=False))
    assert abs(value["text_reliance"]) < 0.05
    assert value["text_reliance_share"] == pytest.approx(value["text_reliance"] / math.log(48))


def test_reliance_is_large_when_captions_tell_the_class() -> None:
    value = trained(informative=True, steps=30).report(clips(48, 7, informative=True))
    assert value["text_reliance"] > 0.3


def test_reliance_is_nothing_when_the_offset_copies_the_skeleton() -> None:
    value = trained(informative=True, steps=0, prepare="copy").report(clips(48, 7, informative=True))
    assert abs(value["text_reliance"]) < 1e-5


def test_report_of_a_batch_that_one_caption_rules() -> None:
    method = trained(informative=True, steps=0)
    batch = clips(8, 7, informative=True)
    ids = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2])
    method.text.score.weight.data.normal_(generator=torch.Generator().manual_seed(3))
    value = method.report(Batch(batch.joints, batch.frames, batch.draws, batch.keys, batch.text, ids))
    assert value["text_reliance_covered"] == 0.5
    assert value["equal_captions"] == 0.75
    alone = method.report(Batch(batch.joints, batch.frames, batch.draws, batch.keys, batch.text, torch.zeros(8, dtype=torch.int64)))
    assert math.isnan(alone["text_reliance"])
    assert alone["text_reliance_covered"] == 0


def test_report_changes_nothing_and_repeats_itself() -> None:
    method = trained(informative=True, steps=1).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    generator = torch.random.get_rng_state()
    batch = clips(8, 7, informative=True)
    assert method.report(batch) == method.report(batch)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(part.training for part in method.modules())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_report_is_that_of_the_samples_that_have_a_caption() -> None:
    method, batch = trained(informative=True, steps=1), clips(16, 7, informative=True)
    has = torch.arange(16) % 3 > 0
    assert batch.text is not None and batch.text_id is not None
    text, ids = batch.text * has[:, None, None], torch.where(has, batch.text_id, -1)
    lacking = Batch(batch.joints, batch.frames, batch.draws, batch.keys, text, ids, has_text=has)
    keys = [key for key, there in zip(batch.keys, has.tolist()) if there]
    only = Batch(batch.joints[has], batch.frames[has], batch.draws[has], keys, batch.text[has], batch.text_id[has])
    assert method.report(lacking) == pytest.approx(method.report(only), rel=1e-5)
    none = Batch(batch.joints, batch.frames, batch.draws, batch.keys, 0 * text, 0 * ids - 1, has_text=has & False)
    assert all(math.isnan(value) for value in method.report(none).values()) and set(method.report(none)) == set(method.report(only))


def test_without_ids_equal_features_are_equal_captions() -> None:
    method, batch = trained(informative=True, steps=1), clips(8, 7, informative=True)
    unnamed = Batch(batch.joints, batch.frames, batch.draws, batch.keys, batch.text)
    assert method.report(unnamed)["equal_captions"] == method.report(batch)["equal_captions"]
