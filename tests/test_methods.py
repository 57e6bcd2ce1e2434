"""What the training loop and the probes rely on in SCD-Net and AC-SAR: state, precision, ranks, randomness, features, recipes."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import acsar
from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.augment import centre_view
from acsar.encoder import Projector
from acsar.recipes import BENCHMARKS, RECIPES
from acsar.scdnet import CHUNK, SCDNet, SCDNetConfig
from acsar.skeleton import NTU25
from acsar.types import Batch, Method
from tests.ranks import run_ranks

SIZES: dict[str, Any] = {"c1": 8, "width": 16, "heads": 2, "out": 8, "queue": 12, "dropout": 0.0, "ema": 0.9}
SCD, AC = SCDNetConfig(**SIZES), ACSARConfig(**SIZES)
TEXT = (5, 6)


def batch(n: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    g = torch.Generator().manual_seed(seed)
    joints = torch.randn(n, 3, 70, 25, 2, generator=g, dtype=torch.float64).to(dtype)
    draws = torch.randint(-(2**62), 2**62, (n,), generator=g)
    text = torch.randn(n, *TEXT, generator=g, dtype=torch.float64).to(dtype)
    return Batch(joints, torch.full((n,), 70), draws, [f"clip{i}" for i in range(n)], text, torch.arange(n) // 2)


def rows(whole: Batch, first: int, last: int) -> Batch:
    own = slice(first, last)
    assert whole.text is not None
    assert whole.text_id is not None
    has_text = None if whole.has_text is None else whole.has_text[own]
    parts = (whole.joints[own], whole.frames[own], whole.draws[own], whole.keys[own], whole.text[own], whole.text_id[own])
    return Batch(*parts, has_text=has_text)


def lacking(whole: Batch, has: list[bool]) -> Batch:
    """The batch with captions for some of its samples."""
    assert whole.text is not None and whole.text_id is not None
    there = torch.tensor(has)
    return replace(whole, text=whole.text * there[:, None, None], text_id=torch.where(there, whole.text_id, -1), has_text=there)


def method(config: SCDNetConfig, seed: int = 0) -> SCDNet:
    built = acsar.build(config, text_shape=TEXT, seed=seed)
    assert isinstance(built, SCDNet)
    with torch.no_grad():
        for name, p in built.query.named_parameters():
            # The refinement and the norms after the aggregation start (almost) off; here they are to take part.
            if name.endswith(("strength", "graph.norm.weight")):
                p.fill_(0.5)
    built.key.load_state_dict(built.query.state_dict())
    return built.train()


def state(of: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in of.state_dict().items()}


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("config", [SCD, AC], ids=["scdnet", "acsar"])
def test_named_losses_and_their_gradients(config: SCDNetConfig) -> None:
    m = method(config)
    losses = m(batch())
    assert list(losses) == ["gs", "gt", "sg", "tg"] + (["text"] if config is AC else [])
    assert all(value.ndim == 0 and value.dtype == torch.float32 for value in losses.values())
    total(losses).backward()
    for name, p in m.named_parameters():
        if name.startswith("key."):
            assert not p.requires_grad
            assert p.grad is None
        else:
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_the_key_encoder_follows_the_query_of_the_last_step_and_queues_come_last() -> None:
    m, b = method(SCD), batch()
    m(b)
    before, queues = state(m.key), [queue.keys.clone() for queue in (m.queue_t, m.queue_s, m.queue_g)]
    with torch.no_grad():
        for p in m.query.parameters():
            p += 0.1
    losses = m(b)
    followed = dict(m.key.named_parameters())
    for name, p in m.query.named_parameters():
        assert torch.allclose(followed[name], 0.9 * before[name] + 0.1 * p, atol=1e-6), name
    # The same losses come from the queues as they were, with the keys of the moved encoder; those keys are the newest entries.
    again = method(SCD)
    again.load_state_dict(m.state_dict())
    for queue, keys in zip((again.queue_t, again.queue_s, again.queue_g), queues):
        queue.keys.copy_(keys)
    again.config = replace(SCD, ema=1.0)
    for name, value in again(b).items():
        assert torch.allclose(value, losses[name], atol=1e-6)
    for queue, repeated in zip((m.queue_t, m.queue_s, m.queue_g), (again.queue_t, again.queue_s, again.queue_g)):
        assert torch.allclose(queue.oldest_first()[-4:], repeated.oldest_first()[-4:], atol=1e-6)
        assert torch.allclose(queue.keys.norm(dim=1), torch.ones(12), atol=1e-6)


def test_running_statistics_of_the_key_are_its_own() -> None:
    m, name = method(SCD), "encoder.trunk.norm.running_mean"
    m(batch())
    query, key = m.query.state_dict()[name], m.key.state_dict()[name]
    assert query.any()
    assert key.any()
    assert not torch.equal(query, key)


@pytest.mark.parametrize("config", [SCD, AC], ids=["scdnet", "acsar"])
def test_nothing_changes_outside_training(config: SCDNetConfig) -> None:
    m, b = method(config), batch()
    m.eval()
    before, generator = state(m), torch.random.get_rng_state()
    m(b)
    m.encode(b.joints, b.frames)
    m.train()
    m.encode(b.joints, b.frames)
    m.project(b.joints, b.frames)
    m.report(b)
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_features_ignore_the_mode_and_the_batch() -> None:
    m, b = method(replace(SCD, dropout=0.5)), batch(CHUNK + 3)
    m(b)
    training = m.encode(b.joints, b.frames)
    assert all(part.training for part in m.modules())
    m.eval()
    m.query.project_t.train()
    assert torch.equal(m.encode(b.joints, b.frames), training)
    assert m.query.project_t.training
    assert not m.query.encoder.training
    assert training.shape == (CHUNK + 3, 32)
    assert not training.requires_grad
    alone = torch.cat([m.encode(b.joints[i : i + 1], b.frames[i : i + 1]) for i in range(CHUNK + 3)])
    assert torch.allclose(alone, training, atol=1e-5)
    v_t, v_s = m.query.eval().encoder(centre_view(b.joints[:4], b.frames[:4], "joint", NTU25))
    assert torch.allclose(torch.cat([v_t, v_s], 1), training[:4], atol=1e-5)


def test_clips_of_64_frames_are_used_as_they_are_in_the_methods_stream() -> None:
    m = method(replace(SCD, stream="motion")).eval()
    clips = torch.randn(2, 3, 64, 25, 2, generator=torch.Generator().manual_seed(0))
    motion = torch.cat([clips[:, :, 1:] - clips[:, :, :-1], torch.zeros(2, 3, 1, 25, 2)], 2)
    assert torch.equal(m.encode(clips), torch.cat(m.query.encoder(motion), 1))
    z = m.project(clips)
    assert list(z) == ["t", "s", "g"]
    assert torch.equal(z["t"], m.query.project_t(m.query.encoder(motion)[0]))


def test_wrong_shapes_are_named() -> None:
    m = method(AC)
    with pytest.raises(ValueError, match=r"clips of 70 frames; give `frames`"):
        m.encode(batch().joints)
    with pytest.raises(ValueError, match=r"expected \[B,3,T,V,M\] with V=25 and M=2"):
        m.encode(torch.zeros(1, 3, 64, 20, 2))
    b = batch()
    with pytest.raises(ValueError, match=r"needs the captions' features"):
        m(Batch(b.joints, b.frames, b.draws, b.keys))


def test_low_precision_stops_at_the_key_encoder() -> None:
    m, b = method(AC), batch()
    _, key_view = m.views(b)
    m.config = replace(AC, ema=1.0)
    exact = m.keys(key_view)
    with torch.autocast("cpu", torch.bfloat16):
        low = m.keys(key_view)
        rough = m.query(key_view)
        losses = m(b)
    assert rough[0].dtype == torch.bfloat16
    for one, other in zip(exact, low):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(value.dtype == torch.float32 for value in m.state_dict().values() if value.is_floating_point())
    total(losses).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in m.query.parameters())


def test_dropout_alone_draws_from_torchs_generator() -> None:
    m, b = method(SCD), batch()
    generator = torch.random.get_rng_state()
    m(b)
    assert torch.equal(torch.random.get_rng_state(), generator)
    wet = method(replace(SCD, dropout=0.5))
    copies = []
    for seed in (1, 1, 2):
        wet.load_state_dict(m.state_dict())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            copies.append(float(total(wet(b)).detach()))
    assert copies[0] == copies[1] != copies[2]


def test_weights_are_a_function_of_the_seed() -> None:
    generator = torch.random.get_rng_state()
    one, same, other = (acsar.build(AC, text_shape=TEXT, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.query.project_t.first.weight, other.query.project_t.first.weight)
    assert not torch.equal(one.queue_t.keys, other.queue_t.keys)
    assert not torch.equal(one.queue_t.keys, one.queue_s.keys)
    assert all(torch.equal(a, b) for a, b in zip(one.query.state_dict().values(), one.key.state_dict().values()))


def test_it_learns_eight_samples_by_heart() -> None:
    quiet = replace(AC, augmentation=replace(AC.augmentation, probability=0.0, min_crop=1.0), queue=8, ema=0.5)
    m, b = method(quiet), batch(8)
    b = Batch(b.joints, b.frames, b.draws, b.keys, b.text, torch.arange(8))
    optimiser = torch.optim.Adam([p for p in m.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(40):
        # Its own earlier keys are no negatives here.
        for queue in (m.queue_t, m.queue_s, m.queue_g):
            queue.keys.copy_(type(queue)(8, 8, seed=9).keys)
        loss = total(m(b))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize("rule", ["paper", "positives", "masked"])
def test_samples_without_caption_are_trained_on_without_the_text_term(rule: str) -> None:
    m, b = method(replace(AC, duplicate_text=rule)).double(), batch(6, dtype=torch.float64)
    has = torch.tensor([True, False, True, True, False, True])
    start = state(m)
    losses = m(lacking(b, has.tolist()))
    total(losses).backward()
    gradients = [p.grad.clone() for p in m.parameters() if p.grad is not None]
    queues = [queue.keys.clone() for queue in (m.queue_t, m.queue_s, m.queue_g)]

    m.load_state_dict(start)
    m.zero_grad()
    expected, z_g = m.contrast(*m.views(b))
    assert isinstance(m, ACSAR) and b.text is not None and b.text_id is not None
    cross = m.cross(z_g[has], m.text.embed(b.text[has]), b.text_id[has])
    expected["text"] = m.config.weight * cross
    total(expected).backward()
    for name, value in expected.items():
        assert float(losses[name].detach()) == pytest.approx(float(value), rel=1e-12), name
    for one, p in zip(gradients, [p for p in m.parameters() if p.grad is not None], strict=True):
        assert p.grad is not None and torch.allclose(one, p.grad, rtol=1e-9, atol=1e-13)
    assert all(torch.equal(a, queue.keys) for a, queue in zip(queues, (m.queue_t, m.queue_s, m.queue_g)))

    m.load_state_dict(start)
    none = m(lacking(b, [False] * 6))
    assert float(none["text"]) == 0 and float(none["gs"]) == float(losses["gs"])
    total(none).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in m.parameters())


def steps_on_rank(rank: int, world: int) -> list[dict[str, Any]]:
    """What `steps` leaves, for both methods, and for captions that some samples lack. Ten keys do not hold a whole number of batches."""
    masked = replace(AC, queue=10, duplicate_text="masked")
    uneven = ([False, False, False, True, True, True], [True, False, True, True, False, False])
    return [
        steps(rank, world, replace(SCD, queue=10)),
        steps(rank, world, masked),
        steps(rank, world, masked, uneven),
        steps(rank, world, replace(masked, duplicate_text="positives"), uneven),
    ]


def steps(rank: int, world: int, config: SCDNetConfig, has_text: tuple[list[bool], ...] = ()) -> dict[str, Any]:
    """Two training steps on this rank's share of six samples, in float64, gradients averaged as the engine does."""
    m = method(config).double()
    own = 6 // world
    out: dict[str, Any] = {"losses": []}
    for step in range(2):
        whole = batch(6, step, torch.float64)
        losses = m(rows(lacking(whole, has_text[step]) if has_text else whole, rank * own, (rank + 1) * own))
        out["losses"].append({name: float(value.detach()) for name, value in losses.items()})
        m.zero_grad()
        total(losses).backward()
        with torch.no_grad():
            for p in m.parameters():
                if p.grad is not None:
                    if world > 1:
                        torch.distributed.all_reduce(p.grad)
                    p.sub_(p.grad / world, alpha=0.05)
    out["state"] = state(m)
    return out


@pytest.mark.distributed
def test_ranks_equal_one_process() -> None:
    ranks = run_ranks(steps_on_rank, 2)
    for one, two in zip(steps_on_rank(0, 1), zip(*ranks)):
        for step in range(2):
            for name, value in one["losses"][step].items():
                assert sum(part["losses"][step][name] for part in two) / 2 == pytest.approx(value, rel=1e-9), (step, name)
        for part in two:
            for name, value in one["state"].items():
                if not name.endswith("num_batches_tracked"):
                    assert torch.allclose(part["state"][name], value, rtol=1e-9, atol=1e-10), name


def words(config: object) -> list[str]:
    """Fields that are no numbers."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return [name for name, value in values.items() if isinstance(value, bool) or not isinstance(value, int | float)]


def test_small_recipes_differ_in_numbers_only() -> None:
    for small, full in (("acsar-small", "acsar"), ("scdnet-small", "scdnet"), ("demo", "acsar")):
        a, b = RECIPES[small].method, RECIPES[full].method
        assert type(a) is type(b)
        assert all(getattr(a, name) == getattr(b, name) for name in words(b) if name != "augmentation"), small
        assert (RECIPES[small].epochs is None) != (RECIPES[small].steps is None)


def test_published_recipes() -> None:
    for name, stem in (("scdnet", "split"), ("acsar", "shared")):
        r = RECIPES[name]
        m = r.method
        assert (m.stem, m.c1, m.width, m.heads, m.out, m.queue, m.tau, m.ema) == (stem, 64, 2048, 8, 128, 8192, 0.2, 0.999)
        assert (r.batch_size, r.lr, r.momentum, r.weight_decay, r.epochs, r.drop_at) == (64, 0.01, 0.9, 1e-4, 450, 350 / 450)
    m = RECIPES["acsar"].method
    assert isinstance(m, ACSARConfig)
    assert (m.tau_cross, m.weight, m.interaction, m.duplicate_text) == (0.15, 0.5, "film", "paper")
    assert BENCHMARKS["pku2"].queue == 2048


def test_build_names_what_there_is() -> None:
    with pytest.raises(ValueError, match="no recipe is called 'resnet'; recipes: acsar, acsar-small"):
        acsar.build("resnet")
    with pytest.raises(ValueError, match="no skeleton is called 'ntu26'; skeletons: ntu25, ucla20"):
        acsar.build(SCD, skeleton="ntu26")
    assert isinstance(acsar.build("acsar-small"), ACSAR)
    assert not acsar.build("scdnet-small").needs_text
    assert isinstance(acsar.build(SCD, skeleton="ucla20"), Method)
    assert acsar.build(SCD).query.project_g.first.in_features == 32
    assert isinstance(acsar.build(SCD).query.project_g, Projector)
