"""One run that goes on with other numbers of ranks: 4, then 2, then 8. It sees the same clips, drawn alike, and loses alike."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acsar.recipes import RECIPES
from acsar.scdnet import SCDNet
from acsar.types import Batch
from jobs import journal
from jobs.pretrain import Pretrain
from jobs.run_folder import RunFolder, attempts
from shards.pack import pack
from shards.sources import open_source
from shards.synthetic import write_synthetic
from tests.ranks import run_ranks

WARM, BATCH, TOLERANCE = 20, 8, 1e-4
LEGS = ((4, WARM + 6), (2, WARM + 12), (8, WARM + 18))  # ranks, and the step to which they go
STEPS = LEGS[-1][1]

Seen = list[list[tuple[str, int]]]  # by step: each row's key, and the base of its random draws


def job(data: Path, name: str, runs: Path, **changes: Any) -> Pretrain:
    """A recipe in fewer numbers, without dropout, its rate down to a tenth after the common start."""
    method = replace(RECIPES["scdnet-small"].method, c1=8, width=32, heads=2, out=16, queue=16, dropout=0.0)
    settings = {"runs": runs, "method": method, "batch_size": BATCH, "steps": STEPS, "protocol": "xsub", "lr": 0.05}
    settings |= {"drop_at": WARM / STEPS, "save_every": 0, "evaluate_every": 0, "aside": 0}
    return Pretrain.of("scdnet-small", data, name, **{**settings, **changes})


def leg(rank: int, world: int, data: str, name: str, runs: str, until: int) -> Seen:
    """Go on to step `until` on this group; what this rank's rows were."""
    torch.set_num_threads(1)
    seen: Seen = []
    forward = SCDNet.forward

    def watched(method: SCDNet, batch: Batch) -> dict[str, Tensor]:
        seen.append(list(zip(batch.keys, batch.draws.tolist())))
        return forward(method, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SCDNet, "forward", watched)
        job(Path(data), name, Path(runs), stop_after=until)("joint")
    return seen


def losses(folder: Path) -> list[dict[str, float]]:
    return [record["losses"] for record in journal.read(folder / "joint") if record["type"] == "step"]


@pytest.mark.distributed
@pytest.mark.cluster
def test_four_then_two_then_eight_ranks_are_one_run(tmp_path: Path) -> None:
    """All start from 20 common steps: at the very start rounding decides ties, and would decide the first gradient too."""
    raw, packed, runs, threads = tmp_path / "raw", tmp_path / "packed", tmp_path / "runs", torch.get_num_threads()
    write_synthetic(raw, subjects=4, actions=6, frames=(20, 24))
    pack(open_source(raw), packed)
    job(packed, "elastic", runs, stop_after=WARM)("joint")
    shutil.copytree(runs / "elastic", runs / "alone")

    alone = leg(0, 1, str(packed), "alone", str(runs), STEPS)
    torch.set_num_threads(threads)
    elastic: Seen = []
    for world, until in LEGS:
        ranks = run_ranks(leg, world, str(packed), "elastic", str(runs), until)
        elastic += [[row for rank in ranks for row in rank[step]] for step in range(len(ranks[0]))]

    assert elastic == alone and len(alone) == STEPS - WARM
    whole, parts = losses(runs / "alone"), losses(runs / "elastic")
    assert len(whole) == len(parts) == STEPS and whole[:WARM] == parts[:WARM]
    differences = [abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(whole, parts) for name in a]
    assert max(differences) < TOLERANCE, differences
    folder = RunFolder(runs / "elastic" / "joint")
    assert [claim.step for claim in attempts(folder)] == [0, WARM, *(until for _, until in LEGS[:-1])]
    assert folder.result.is_file()
    print(f"losses differ by {max(differences):.1e} at most")
