"""Frozen features: made once, kept by key, mapped from the file; raw clips and the untrained encoder."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import acsar
from acsar import augment
from acsar.batchnorm import BatchNorm
from acsar.skeleton import NTU25
from jobs import features
from jobs.weights import query
from shards.errors import InputError
from shards.stream import PackedSet
from tests.moves import TINY, packed_moves

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedSet:
    return packed_moves(tmp_path_factory.mktemp("moves") / "packed")


def keys_of(packed: PackedSet) -> list[str]:
    return sorted(record.key for record in packed.samples)


def blocks(*sizes: int) -> Iterator[Tensor]:
    for i, size in enumerate(sizes):
        yield torch.full((size, 3), float(i)) + torch.arange(size)[:, None] / 10


def test_a_file_gives_back_what_was_written_and_numpy_reads_it(tmp_path: Path) -> None:
    path, keys = tmp_path / "x.features.npz", ["a", "b", "c", "d", "e"]
    features.write(path, keys, {"encoder": "e1"}, blocks(2, 3))
    found = features.read(path, encoder="e1")
    expected = torch.cat(list(blocks(2, 3)))
    assert found.keys == keys and found.spec == {"encoder": "e1"} and torch.equal(found.values, expected)
    with np.load(path, allow_pickle=False) as plain:
        assert np.array_equal(plain["features"], expected.numpy())
    found.values[0] = 9.0
    assert torch.equal(features.read(path).values, expected), "a change in memory must not reach the file"


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 feature rows for 3 keys"):
        features.write(tmp_path / "x.npz", ["a", "b", "c"], {}, blocks(2))
    assert not list(tmp_path.iterdir())


def test_a_feature_that_is_not_finite_names_the_sample(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sample b are not finite"):
        features.write(tmp_path / "x.npz", ["a", "b"], {}, [torch.tensor([[1.0], [float("nan")]])])


def test_another_encoders_features_are_refused(tmp_path: Path) -> None:
    features.write(tmp_path / "x.npz", ["a"], {"encoder": "e1"}, blocks(1))
    with pytest.raises(InputError, match="features of encoder e1, not of e2"):
        features.read(tmp_path / "x.npz", encoder="e2")


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(InputError, match="is no file of features"):
        features.read(tmp_path / "x.npz")


def test_kept_makes_features_once_and_again_when_anything_changed(tmp_path: Path) -> None:
    calls = []

    def rows() -> Iterator[Tensor]:
        calls.append(1)
        return blocks(2)

    path = tmp_path / "x.npz"
    for keys, spec, made in ((["a", "b"], {"e": 1}, 1), (["a", "b"], {"e": 1}, 1), (["a", "b"], {"e": 2}, 2), (["a", "c"], {"e": 2}, 3)):
        features.kept(path, keys, spec, rows)
        assert features.read(path).keys == keys and len(calls) == made


def test_encoded_follows_the_keys_whatever_the_batch(packed: PackedSet) -> None:
    method, keys = acsar.build(TINY, seed=1), keys_of(packed)[::-3]
    whole = torch.cat(list(features.encoded(method.encode, packed, keys, CPU)))
    pieces = torch.cat(list(features.encoded(method.encode, packed, keys, CPU, batch=3)))
    alone = torch.cat([torch.cat(list(features.encoded(method.encode, packed, [key], CPU))) for key in keys])
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == (len(keys), 2 * TINY.width) and not whole.requires_grad


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_raw_features_are_the_evaluation_crop_flattened(packed: PackedSet, stream: str) -> None:
    key = keys_of(packed)[0]
    [row] = features.encoded(features.raw_encode(stream, "ntu25"), packed, [key], CPU)  # type: ignore[arg-type]
    rows = packed.load([key])
    n = int(rows.frames[0])
    start = int((1 - 0.95) * n / 2)
    clip = torch.from_numpy(rows.joints[:, :, start : n - start])
    place = ((torch.arange(64, dtype=torch.float64) + 0.5) * clip.shape[2] / 64 - 0.5).clamp(0, clip.shape[2] - 1)
    low = place.long()
    share = (place - low)[:, None, None]
    x = clip[0][:, low] * (1 - share) + clip[0][:, (low + 1).clamp(max=clip.shape[2] - 1)] * share
    if stream == "bone":
        x = x - x[:, :, list(NTU25.parent)]
    if stream == "motion":
        x = torch.cat([x[:, 1:] - x[:, :-1], torch.zeros_like(x[:, :1])], 1)
    torch.testing.assert_close(row[0], x.flatten().float(), rtol=1e-5, atol=1e-5)


def test_statistics_are_the_mean_over_the_batches_in_training_arithmetic() -> None:
    net = nn.Sequential(BatchNorm(4), nn.Linear(4, 4), BatchNorm(4), nn.Dropout(0.5))
    views = [torch.randn(size, 4, generator=torch.Generator().manual_seed(size)) * 3 + 1 for size in (8, 8, 4)]
    features.fill_statistics(net, [partial(torch.clone, view) for view in views])
    inner = [(v - v.mean(0)) / torch.sqrt(v.var(0, correction=0) + 1e-5) @ net[1].weight.T + net[1].bias for v in views]
    for norm, seen in ((net[0], views), (net[2], inner)):
        mean = sum(len(x) * x.mean(0) for x in seen) / 20
        var = sum(len(x) * x.var(0) for x in seen) / 20
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-4)
        assert norm.momentum == 0.1 and not norm.training


def test_the_random_encoder_is_the_recipes_network_with_filled_statistics(packed: PackedSet) -> None:
    keys = keys_of(packed)[:20]
    made, again = (features.random_encoder(TINY, "ntu25", packed, keys, 7, CPU) for _ in range(2))
    fresh = acsar.build(TINY, seed=7)
    state, start = query(made).state_dict(), query(fresh).state_dict()
    same = {name for name in state if torch.equal(state[name], start[name])}
    changed = {name for name in state if name not in same}
    assert changed and all("running" in name or "num_batches" in name for name in changed)
    assert all(torch.equal(value, query(again).state_dict()[name]) for name, value in state.items())
    assert not made.training


def test_features_do_not_touch_the_encoder_or_global_draws(packed: PackedSet) -> None:
    method = acsar.build(TINY, seed=1)
    method.train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    drawn = torch.get_rng_state()
    list(features.encoded(method.encode, packed, keys_of(packed)[:4], CPU))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state()) and method.training


def test_evaluation_crop_is_the_published_share() -> None:
    start, length = augment.centre_crop(torch.tensor([300, 64, 41]), features.CROP)
    assert (start.tolist(), length.tolist()) == ([7, 1, 1], [286, 62, 39])
