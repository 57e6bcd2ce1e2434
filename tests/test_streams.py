"""Streams: bones and motion against their definition, on both layouts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acsar.skeleton import NTU25, UCLA20, Skeleton
from acsar.streams import STREAMS, bone, motion, stream, take_joints

skeletons = st.sampled_from([NTU25, UCLA20])


def clip(seed: int, skeleton: Skeleton, frames: int = 6, people: int = 2) -> Tensor:
    return torch.randn(2, 3, frames, skeleton.size, people, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 10**6), skeleton=skeletons, people=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_bones_are_child_minus_parent_and_ignore_translation(seed: int, skeleton: Skeleton, people: int) -> None:
    x = clip(seed, skeleton, people=people)
    bones = bone(x, skeleton)
    for child, parent in enumerate(skeleton.parent):
        assert torch.equal(bones[..., child, :], x[..., child, :] - x[..., parent, :])
    moved = x + torch.randn(2, 3, 6, 1, people, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    torch.testing.assert_close(bone(moved, skeleton), bones, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10**6), skeleton=skeletons, frames=st.integers(1, 8))
@settings(deadline=None, max_examples=20)
def test_motion_sums_to_the_way_and_a_still_pose_has_none(seed: int, skeleton: Skeleton, frames: int) -> None:
    x = clip(seed, skeleton, frames)
    moves = motion(x)
    assert moves.shape == x.shape and not moves[:, :, -1].any()
    torch.testing.assert_close(moves.sum(2), x[:, :, -1] - x[:, :, 0], rtol=0, atol=1e-12)
    assert not motion(x[:, :, :1].expand_as(x)).any()


def test_ntu_bones_of_the_published_list() -> None:
    """The root of the layout, joint #21, has no bone; joint #1 hangs on #2, #8's thumb #23 on #8 and so on."""
    x = torch.arange(25.0).reshape(1, 1, 1, 25, 1)
    pairs = [(1, 2), (2, 21), (3, 21), (4, 3), (5, 21), (6, 5), (7, 6), (8, 7), (9, 21), (10, 9), (11, 10), (12, 11), (13, 1)]
    pairs += [(14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18), (20, 19), (21, 21), (22, 23), (23, 8), (24, 25), (25, 12)]
    assert bone(x, NTU25).flatten().tolist() == [float(child - parent) for child, parent in pairs]


@pytest.mark.parametrize("people", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_taking_joints_of_each_sample(people: int, dtype: torch.dtype) -> None:
    x = clip(4, NTU25, people=people).to(dtype)
    joints = torch.stack([torch.arange(25), torch.arange(24, -1, -1)])
    taken = take_joints(x, joints)
    assert torch.equal(taken[0], x[0]) and torch.equal(taken[1], x[1].flip(2))
    assert torch.equal(take_joints(x.transpose(2, 3).contiguous().transpose(2, 3), joints), taken)


def test_bones_carry_the_gradient() -> None:
    x = clip(5, NTU25).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: bone(y, NTU25), (x[:1, :, :2],))


def test_streams_by_name() -> None:
    x = clip(0, NTU25)
    assert stream(x, "joint", NTU25) is x
    assert torch.equal(stream(x, "bone", NTU25), bone(x, NTU25))
    assert torch.equal(stream(x, "motion", NTU25), motion(x))
    assert STREAMS == ("joint", "bone", "motion")
    with pytest.raises(ValueError, match=r"'bones'; streams: joint, bone, motion"):
        stream(x, "bones", NTU25)  # type: ignore[arg-type]
