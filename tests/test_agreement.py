"""Agreement of captions with their skeletons: its formula, what it finds in a run that uses captions, and when a run is not asked."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.agreement import agreement, reliance_by_sample
from acsar.film import TextBranch, initialise
from acsar.skeleton import NTU25
from jobs import weights
from jobs.agreement import LEAST_SHARE, judge
from jobs.run_folder import RunFolder, read_json, write_json
from shards.errors import InputError
from tests.believers import WRONG, believing
from tests.moves import finished_run, packed_moves


def branch(interaction: str = "film") -> TextBranch:
    part = TextBranch(5, 3, 4, 6, interaction, False)
    initialise(part, torch.Generator().manual_seed(0))
    return part


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("interaction", ["film", "none"])
@pytest.mark.parametrize("block", [2, 5, 1000])
def test_agreement_is_its_formula(interaction: str, block: int) -> None:
    part, z, captions, own = branch(interaction), drawn(9, 4), drawn(6, 4, seed=2), torch.tensor([0, 5, 2, 2, 1, 3, 4, 0, 0])
    found = agreement(part, z, captions, own, block)
    assert found.dtype == torch.float64 and found.shape == (9,)
    for i in range(9):
        with torch.no_grad():
            texts = part.modulate(captions, z[i].expand(6, 4))
        fits = torch.cosine_similarity(texts.double(), z[i].double()[None])
        others = [float(fits[j]) for j in range(6) if j != own[i]]
        assert float(found[i]) == pytest.approx(float(fits[own[i]]) - sum(others) / 5, abs=1e-6)


def test_what_the_offset_copies_does_not_count() -> None:
    part = branch()
    with torch.no_grad():
        part.gamma.weight.zero_()
        part.gamma.bias.zero_()
        part.beta.weight.copy_(torch.eye(4))
    assert agreement(part, drawn(9, 4), drawn(6, 4), torch.arange(9) % 6).abs().max() < 1e-6


def test_one_caption_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="1 distinct captions"):
        agreement(branch(), drawn(3, 4), drawn(1, 4), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("rule", ["paper", "positives", "masked"])
def test_reliance_by_sample_has_the_mean_that_is_reported(rule: str) -> None:
    from acsar.reliance import exchange

    method = ACSAR(ACSARConfig(c1=8, width=16, heads=2, out=4, queue=8, duplicate_text=rule), NTU25, (5, 3), seed=0)
    z, ids, draws = drawn(8, 4), torch.tensor([0, 1, 2, 3, 4, 4, 5, 6]), torch.arange(8)[None] * 7919
    captions = drawn(7, 4, seed=2)[ids]
    each = reliance_by_sample(method, z, captions, ids, draws)
    rows, partners = exchange(ids, draws[0])
    with torch.no_grad():
        true, exchanged = (method.cross(z[rows], captions[who], ids[who], across_ranks=False) for who in (rows, partners))
    assert float(each.mean()) == pytest.approx(float(exchanged - true), abs=1e-6)


def test_samples_that_no_exchange_reached_have_no_reliance() -> None:
    method = ACSAR(ACSARConfig(c1=8, width=16, heads=2, out=4, queue=8), NTU25, (5, 3), seed=0)
    ids = torch.tensor([0, 0, 0, 0, 1])
    each = reliance_by_sample(method, drawn(5, 4), drawn(2, 4, seed=2)[ids], ids, torch.arange(5)[None])
    assert int(each.isnan().sum()) == 3 and not each[4].isnan()
    assert reliance_by_sample(method, drawn(3, 4), drawn(3, 4), torch.zeros(3, dtype=torch.int64), torch.arange(3)[None]).isnan().all()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return believing(tmp_path_factory.mktemp("believing") / "runs")[0]


def test_wrong_captions_are_the_worst(run: Path) -> None:
    found = judge(run)
    assert set(found.worst(len(WRONG))) == set(WRONG)
    assert found.worst(2) == found.worst(4)[:2]
    (stream,) = found.reliance
    assert stream.stream == "joint" and stream.relies and 0 < stream.low < stream.value < stream.high and stream.share > 0.2
    assert "text_reliance" in stream.words() and f"ln({stream.samples})" in stream.words()


def test_only_training_clips_are_scored(run: Path) -> None:
    found = judge(run)
    splits = {record.key: record.split for record in found.packed.samples}
    assert {splits[key] for key in found.scores} == {"train"}
    held = found.reliance[0].samples
    assert len(found.scores) == sum(split == "train" for split in splits.values()) - held


def test_a_run_that_ignores_its_captions_is_not_asked(run: Path, tmp_path: Path) -> None:
    other = believing(tmp_path / "runs", steps=0, permuted=True)[0]
    with pytest.raises(
        InputError, match=r"does not use its captions.*joint: text_reliance -?0\.0\d+ \[-0\.\d+, 0\.\d+\].*1% of ln\(samples\)"
    ):
        judge(other)
    assert LEAST_SHARE == 0.01


def test_a_caption_branch_comes_back_as_it_was(run: Path) -> None:
    folder = RunFolder(run / "joint")
    method = weights.load_whole(folder)
    assert not method.training
    weights.save_text(folder.path / "again.safetensors", method, {"content_id": weights.metadata(folder.encoder)["content_id"]})
    assert (folder.path / "again.safetensors").read_bytes() == folder.text.read_bytes()


def test_runs_that_cannot_be_asked_are_named(run: Path, tmp_path: Path) -> None:
    plain = finished_run(tmp_path / "runs" / "plain", packed_moves(tmp_path / "packed"))
    with pytest.raises(InputError, match="pretrained without captions"):
        judge(plain)
    folder = RunFolder(run / "joint")
    content = folder.text.read_bytes()
    config = read_json(folder.config)
    try:
        folder.text.write_bytes(content[:100])
        with pytest.raises(InputError, match="is no caption branch"):
            judge(run)
        folder.text.unlink()
        with pytest.raises(InputError, match="does not exist"):
            judge(run)
        folder.text.write_bytes(content)
        write_json(folder.config, {**config, "job": {**config["job"], "aside": 0}})
        with pytest.raises(InputError, match="kept no captioned clips out"):
            judge(run)
    finally:
        folder.text.write_bytes(content)
        write_json(folder.config, config)
