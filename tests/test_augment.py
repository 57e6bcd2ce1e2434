"""Augmentations: against the published code's numbers, its distributions, and what must not depend on the batch."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acsar.augment import (
    Augmentation,
    centre_crop,
    centre_view,
    crop_resize,
    draws_for,
    flip,
    mask_,
    random_crop,
    rotation,
    shear,
    spatial_mask,
    temporal_mask,
    transform,
    view,
    views,
)
from acsar.draws import base, key_id, uniform
from acsar.skeleton import NTU25, UCLA20, Skeleton
from acsar.streams import STREAMS, Stream, motion, stream

DATA = Path(__file__).parent / "data"
DEFAULT = Augmentation()
skeletons = st.sampled_from([NTU25, UCLA20])


def clip(seed: int, batch: int = 2, frames: int = 64, skeleton: Skeleton = NTU25, people: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, skeleton.size, people, generator=torch.Generator().manual_seed(seed))


def bases(count: int, epoch: int = 0) -> Tensor:
    return base(3, epoch, torch.tensor([key_id(f"clip{i}") for i in range(count)]))


def ramp(length: int) -> Tensor:
    """A clip of `length` frames whose coordinate is the frame number, resized to 64."""
    x = torch.arange(float(length)).reshape(1, 1, length, 1, 1)
    return crop_resize(x, torch.tensor([0]), torch.tensor([length])).flatten()


# --- time


@pytest.mark.golden
def test_crops_of_the_published_code() -> None:
    salt = json.loads((DATA / "scdnet_open.json").read_text())["salt"]
    expected = np.load(DATA / "scdnet_open.npz")
    rng = np.random.default_rng(zlib.crc32(f"{salt}:crop".encode()))
    x = torch.from_numpy((0.5 * rng.standard_normal((3, 300, 25, 2))).astype(np.float32))[None]
    crop = crop_resize(x, torch.tensor([20]), torch.tensor([80]))[0, :, ::8]
    np.testing.assert_allclose(crop, expected["crop_resize_20_80"], rtol=1e-5, atol=1e-6)
    centre = centre_view(x, torch.tensor([117]), "joint", NTU25)[0, :, ::8]
    np.testing.assert_allclose(centre, expected["centre_crop_95_of_117"], rtol=1e-5, atol=1e-6)


def test_resized_ramps() -> None:
    """Values of the published resize."""
    assert ramp(64).tolist() == list(range(64))
    assert ramp(10)[:4].tolist() == [0, 0, 0, 0.046875] and ramp(10)[-3:].tolist() == [9, 9, 9]
    assert ramp(90)[:4].tolist() == [0.203125, 1.609375, 3.015625, 4.421875]
    assert ramp(90)[-3:].tolist() == [85.984375, 87.390625, 88.796875]
    assert ramp(300)[:4].tolist() == [1.84375, 6.53125, 11.21875, 15.90625]
    assert ramp(300)[-3:].tolist() == [287.78125, 292.46875, 297.15625]
    assert ramp(1).tolist() == [0] * 64


@given(frames=st.integers(1, 310), cut=st.tuples(st.floats(0, 1), st.floats(0, 1)), out=st.integers(1, 80), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_resize_equals_torchs_interpolation(frames: int, cut: tuple[float, float], out: int, seed: int) -> None:
    x = clip(seed, 1, frames).double()
    length = 1 + int(cut[0] * (frames - 1))
    start = int(cut[1] * (frames - length))
    ours = crop_resize(x, torch.tensor([start]), torch.tensor([length]), out)
    rows = x[0, :, start : start + length].permute(0, 2, 3, 1).reshape(1, -1, length)
    theirs = F.interpolate(rows, size=out, mode="linear", align_corners=False).view(3, 25, 2, out).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours[0], theirs, rtol=0, atol=1e-10)


@given(seed=st.integers(0, 10**6), frames=st.integers(1, 90))
@settings(deadline=None, max_examples=20)
def test_a_full_crop_to_the_same_length_is_the_clip(seed: int, frames: int) -> None:
    x = clip(seed, 3, frames)
    assert torch.equal(crop_resize(x, torch.zeros(3, dtype=torch.int64), torch.full((3,), frames), frames), x)


def test_rows_of_a_batch_are_cropped_each_on_its_own() -> None:
    x, starts, lengths = clip(0, 4, 100), torch.tensor([0, 10, 36, 99]), torch.tensor([100, 64, 64, 1])
    together = crop_resize(x, starts, lengths)
    for i in range(4):
        assert torch.equal(together[i], crop_resize(x[i : i + 1], starts[i : i + 1], lengths[i : i + 1])[0])
    turned = x.permute(0, 1, 2, 4, 3).contiguous().permute(0, 1, 2, 4, 3)
    assert not turned.is_contiguous() and torch.equal(crop_resize(turned, starts, lengths), together)


@given(frames=st.integers(1, 400), u=st.tuples(st.floats(0, 1, exclude_max=True, width=32), st.floats(0, 1, exclude_max=True, width=32)))
def test_random_crops_keep_the_published_rule(frames: int, u: tuple[float, float]) -> None:
    start, length = (int(v) for v in random_crop(torch.tensor([frames]), torch.tensor([u])))
    share = 0.1 + 0.9 * u[0]
    assert length == min(max(int(np.floor(frames * share)), 64), frames)
    assert 0 <= start <= frames - length


def test_every_start_of_a_crop_is_equally_likely() -> None:
    n = 40_000
    frames = torch.full((n,), 70)
    start, length = random_crop(frames, uniform(bases(n), 0, 2))
    # 70 frames: U(0.1,1) keeps 64 unless the share is above 65/70.
    assert int(length.min()) == 64 and int(length.max()) == 69
    whole = length == 64
    assert abs(float(whole.double().mean()) - (65 / 70 - 0.1) / 0.9) < 0.01
    counts = torch.bincount(start[whole], minlength=7).double()
    assert len(counts) == 7 and float((counts / counts.sum() - 1 / 7).abs().max()) < 0.01
    largest = random_crop(torch.tensor([300]), torch.tensor([[0.0, 1 - 2.0**-24]]))
    assert int(largest[0]) == 300 - 64


@given(frames=st.integers(1, 400))
def test_centre_crop_is_the_published_arithmetic(frames: int) -> None:
    start, length = centre_crop(torch.tensor([frames]))
    assert int(start) == int((1 - 0.95) * frames / 2)
    assert int(length) == frames - 2 * int(start) >= 1


# --- space


@given(u=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_rotation_keeps_lengths_and_turns_as_published(u: list[float], seed: int) -> None:
    matrix = rotation(torch.tensor([u], dtype=torch.float64))
    x = clip(seed, 1, 3).double()
    turned = transform(x, matrix)
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1), rtol=1e-12, atol=1e-12)
    main = int(u[0] * 3)
    expected = np.eye(3)
    for axis in range(3):
        angle = np.radians(u[1 + axis] * (30 if axis == main else 1))
        c, s = np.cos(angle), np.sin(angle)
        one = [[[1, 0, 0], [0, c, s], [0, -s, c]], [[c, 0, -s], [0, 1, 0], [s, 0, c]], [[c, s, 0], [-s, c, 0], [0, 0, 1]]][axis]
        expected = np.array(one) @ expected
    np.testing.assert_allclose(matrix[0], expected, atol=1e-12)


def test_shear_has_ones_on_the_diagonal_and_six_free_entries() -> None:
    u = uniform(bases(5000), 0, 6)
    matrix = shear(u)
    assert torch.equal(matrix.diagonal(dim1=1, dim2=2), torch.ones(5000, 3))
    free = matrix[:, ~torch.eye(3, dtype=torch.bool)]
    assert torch.equal(free, 2 * u - 1)
    x = clip(1, 1, 3)
    torch.testing.assert_close(transform(x, matrix[:1]), torch.einsum("ij,bjtvm->bitvm", matrix[0], x))


@given(seed=st.integers(0, 10**6), skeleton=skeletons, people=st.integers(1, 2))
@settings(deadline=None, max_examples=20)
def test_flip_and_mirror_twice_are_the_identity(seed: int, skeleton: Skeleton, people: int) -> None:
    x = clip(seed, 2, 5, skeleton, people)
    chosen = torch.tensor([True, False])
    once = flip(x, chosen, skeleton)
    assert torch.equal(once[0], x[0, :, :, list(skeleton.mirror)]) and torch.equal(once[1], x[1])
    assert torch.equal(flip(once, chosen, skeleton), x)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0])).expand(2, 3, 3)
    twice = x
    for _ in range(2):
        twice = flip(transform(twice, mirror), chosen, skeleton)
    assert torch.equal(twice, x)


def test_the_flip_of_ntu_is_the_published_order() -> None:
    order = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22]
    x = torch.arange(25.0).reshape(1, 1, 1, 25, 1)
    assert flip(x, torch.tensor([True]), NTU25).flatten().tolist() == order


@pytest.mark.parametrize("skeleton", [NTU25, UCLA20])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("kind", ["permute", "mirror", "none"])
def test_a_view_is_its_five_steps_one_after_another(name: Stream, kind: str, skeleton: Skeleton) -> None:
    """The fused matrix and mask equal: rotate, flip, shear, zero the joints, zero the frames of each sample in turn."""
    config = Augmentation(flip=kind)  # type: ignore[arg-type]
    x, frames, draws = clip(5, 24, 100, skeleton), torch.arange(60, 108), bases(24)
    frames = frames[::2]
    ours = view(x, frames, draws, 1, name, skeleton, config)
    drawn = draws_for(draws, (1,), frames.clamp(max=100), skeleton, config)
    u = uniform(draws, 1, 22 + 16 + skeleton.size)
    assert 0 < int(drawn.flipped.sum()) < 24
    for i in range(24):
        y = stream(crop_resize(x[i : i + 1], drawn.start[i : i + 1], drawn.length[i : i + 1]), name, skeleton).double()
        if u[i, 2] < 0.5:
            y = torch.einsum("ij,bjtvm->bitvm", rotation(u[i : i + 1, 7:11].double())[0], y)
        if u[i, 3] < 0.5 and kind != "none":
            y = y[:, :, :, list(skeleton.mirror)].clone()
            if kind == "mirror":
                y[:, 0] *= -1
        if u[i, 4] < 0.5:
            y = torch.einsum("ij,bjtvm->bitvm", shear(u[i : i + 1, 11:17].double())[0], y)
        y = y.clone()
        if u[i, 5] < 0.5:
            assert int((~drawn.joints[i]).sum()) == 8
            y[:, :, :, ~drawn.joints[i]] = 0
        else:
            assert drawn.joints[i].all()
        if u[i, 6] < 0.5:
            assert int((~drawn.frames[i]).sum()) == 24
            y[:, :, ~drawn.frames[i]] = 0
        else:
            assert drawn.frames[i].all()
        torch.testing.assert_close(ours[i : i + 1].double(), y, rtol=1e-5, atol=1e-5)


# --- masks


@pytest.mark.golden
def test_mask_responses_of_the_published_code() -> None:
    expected = np.load(DATA / "scdnet_open.npz")
    response = NTU25.two_step()[expected["mask_draws"]].sum(1)
    np.testing.assert_array_equal(response, expected["mask_response"])
    kept = spatial_mask(torch.from_numpy(expected["mask_draws"]), uniform(bases(4), 0, 25), 8, NTU25)
    for scores, stays in zip(response, kept.numpy()):
        assert scores[~stays].min() >= scores[stays].max() and (~stays).sum() == 8


def masked(anchors: list[int], count: int = 400) -> Tensor:
    """Which joints go, [count,25], for many ties of the same anchors."""
    return ~spatial_mask(torch.tensor([anchors]).expand(count, 5), uniform(bases(count), 0, 25), 8, NTU25)


def test_masks_of_known_scores() -> None:
    shoulder = masked([20] * 5)
    assert shoulder[:, [20, 1, 2, 4, 8]].all()
    # Three of the four joints that tie for the last places, each as often as the others.
    assert (shoulder[:, [0, 3, 5, 9]].sum(1) == 3).all()
    assert float((shoulder[:, [0, 3, 5, 9]].double().mean(0) - 0.75).abs().max()) < 0.1
    hand = masked([7] * 5)
    assert hand[:, [7, 6, 22, 5, 21]].all() and (hand.sum(1) == 8).all()
    assert float((hand.double().mean(0)[[0, 1, 2, 3, 24]] - 3 / 20).abs().max()) < 0.08


def test_masking_frequency_of_each_joint() -> None:
    """Frequencies with random ties, computed once from the published scores with 200,000 draws."""
    expected = torch.tensor(
        [.456, .440, .365, .141, .394, .322, .327, .333, .395, .325, .332, .336, .361,
         .331, .310, .153, .362, .332, .312, .155, .593, .152, .311, .153, .312], dtype=torch.float64)  # fmt: skip
    n = 40_000
    always = Augmentation(probability=1.0)
    kept = draws_for(bases(n), (0,), torch.full((n,), 80), NTU25, always).joints
    assert float(((~kept).double().mean(0) - expected).abs().max()) < 0.012


def test_six_of_sixteen_cubes_without_replacement() -> None:
    n = 20_000
    kept = temporal_mask(uniform(bases(n), 0, 16), 6)
    cubes = kept.view(n, 16, 4)
    assert torch.equal(cubes.all(2), cubes.any(2))
    gone = (~cubes[:, :, 0]).double()
    assert (gone.sum(1) == 6).all()
    assert float((gone.mean(0) - 6 / 16).abs().max()) < 0.015
    together = gone.T @ gone / n
    off = ~torch.eye(16, dtype=torch.bool)
    assert float((together[off] - 6 * 5 / (16 * 15)).abs().max()) < 0.015


def test_mask_zeroes_all_coordinates_and_people() -> None:
    x = clip(0, 2).abs() + 1
    joints, frames = torch.rand(2, 25, generator=torch.Generator().manual_seed(0)) < 0.5, torch.arange(64).expand(2, 64) % 3 > 0
    out = mask_(x.clone(), joints, frames)
    stays = (frames[:, None, :, None, None] & joints[:, None, None, :, None]).expand_as(x)
    assert torch.equal(out != 0, stays) and torch.equal(out[stays], x[stays])


# --- the whole view


@given(seed=st.integers(0, 10**6), batch=st.integers(1, 9), name=st.sampled_from(STREAMS), number=st.integers(0, 1))
@settings(deadline=None, max_examples=25)
def test_batch_equals_one_by_one_bit_for_bit(seed: int, batch: int, name: Stream, number: int) -> None:
    x, frames = clip(seed, batch, 130), torch.randint(1, 131, (batch,), generator=torch.Generator().manual_seed(seed))
    draws = base(seed, 1, torch.arange(batch))
    together = view(x, frames, draws, number, name, NTU25, DEFAULT)
    for i in range(batch):
        row = slice(i, i + 1)
        # Alone, the clip needs no padding to the batch's longest one.
        alone = view(x[row, :, : int(frames[i])], frames[row], draws[row], number, name, NTU25, DEFAULT)
        assert torch.equal(together[row], alone)


@pytest.mark.parametrize("name", STREAMS)
def test_both_views_at_once_have_the_same_bits(name: Stream) -> None:
    x, frames, draws = clip(7, 12, 110), torch.arange(55, 115, 5), bases(12)
    for number, ours in enumerate(views(x, frames, draws, name, NTU25, DEFAULT)):
        assert torch.equal(ours, view(x, frames, draws, number, name, NTU25, DEFAULT)) and ours.is_contiguous()


def test_large_batch_with_threads_has_the_same_bits() -> None:
    x, frames, draws = clip(1, 48, 90), torch.full((48,), 90), bases(48)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = view(x, frames, draws, 0, "bone", NTU25, DEFAULT)
    finally:
        torch.set_num_threads(before)
    halves = [view(x[h], frames[h], draws[h], 0, "bone", NTU25, DEFAULT) for h in (slice(0, 5), slice(5, 48))]
    assert torch.equal(together, torch.cat(halves))


def test_views_differ_and_repeat_and_leave_generators_alone() -> None:
    x, frames, draws = clip(2, 8, 100), torch.full((8,), 100), bases(8)
    before = torch.get_rng_state()
    first = view(x, frames, draws, 0, "joint", NTU25, DEFAULT)
    second = view(x, frames, draws, 1, "joint", NTU25, DEFAULT)
    assert torch.equal(first, view(x, frames, draws, 0, "joint", NTU25, DEFAULT))
    assert not torch.equal(first, second)
    assert all(not torch.equal(a, b) for a, b in zip(first, view(x, frames, bases(8, epoch=1), 0, "joint", NTU25, DEFAULT)))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (8, 3, 64, 25, 2) and first.is_contiguous() and not first.requires_grad


def test_gates_open_half_of_the_time_and_independently() -> None:
    n = 20_000
    drawn = draws_for(bases(n), (0,), torch.full((n,), 90), NTU25, DEFAULT)
    eye = torch.eye(3)
    open_ = torch.stack(
        [
            drawn.flipped,
            (drawn.matrix.diagonal(dim1=1, dim2=2) == 1).all(1) & (drawn.matrix != eye).any(2).any(1),
            ~drawn.joints.all(1),
            ~drawn.frames.all(1),
        ]
    ).double()
    # Second row: sheared but not rotated, a quarter.
    assert float((open_.mean(1) - torch.tensor([0.5, 0.25, 0.5, 0.5])).abs().max()) < 0.02
    assert float((torch.corrcoef(open_) - torch.eye(4)).abs().max()) < 0.04
    assert abs(float((drawn.matrix == eye).all(2).all(1).double().mean()) - 0.25) < 0.02


def test_nothing_is_left_to_chance_at_probability_zero() -> None:
    x, frames = clip(3, 4), torch.full((4,), 64)
    calm = Augmentation(probability=0.0)
    assert torch.equal(view(x, frames, bases(4), 0, "joint", NTU25, calm), x)
    torch.testing.assert_close(view(x, frames, bases(4), 0, "motion", NTU25, calm), motion(x))


def test_frames_beyond_the_clip_are_not_read() -> None:
    """A raw frame count may exceed what is stored (PKU-MMD clips longer than 300 frames)."""
    x = clip(4, 2, 80)
    for far, full in [(torch.tensor([400, 81]), torch.tensor([80, 80]))]:
        assert torch.equal(view(x, far, bases(2), 0, "joint", NTU25, DEFAULT), view(x, full, bases(2), 0, "joint", NTU25, DEFAULT))
        assert torch.equal(centre_view(x, far, "bone", NTU25), centre_view(x, full, "bone", NTU25))


@pytest.mark.parametrize("wrong", [{"cubes": 10}, {"masked_cubes": 17}, {"probability": 1.5}, {"flip": "upside-down"}, {"min_crop": -0.1}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        Augmentation(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_same_draws_on_the_accelerator() -> None:
    frames, draws = torch.arange(40, 296), bases(256)
    here = draws_for(draws, (0,), frames, NTU25, DEFAULT)
    there = draws_for(draws.cuda(), (0,), frames.cuda(), NTU25, DEFAULT)
    for name, value in vars(here).items():
        assert torch.equal(value, getattr(there, name).cpu()), name
    x = clip(0, 256, 300)
    theirs = view(x.cuda(), frames.cuda(), draws.cuda(), 0, "bone", NTU25, DEFAULT).cpu()
    torch.testing.assert_close(view(x, frames, draws, 0, "bone", NTU25, DEFAULT), theirs, rtol=1e-5, atol=1e-5)
