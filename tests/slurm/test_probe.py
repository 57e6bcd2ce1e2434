"""A probe whose encoder passes two nodes share: the numbers are those of one process."""

from pathlib import Path

from jobs import features
from jobs.probe import Probe
from jobs.run_folder import read_json
from launch.unit import Unit
from tests.moves import finished_run, packed_moves
from tests.slurm.box import Box
from tests.slurm.conftest import launch


def test_two_nodes_share_the_passes(box: Box, tmp_path: Path) -> None:
    packed = packed_moves(tmp_path / "packed")
    run, alone = finished_run(tmp_path / "one" / "run", packed), finished_run(tmp_path / "two" / "run", packed)
    ended = launch("probe", "--run", run, "--cluster", "slurm", "--nodes", "2", "--wait", SLURM_CONF=str(box.conf))
    assert ended.returncode == 0, ended.stderr
    submission = Unit(run, "probe").submitted()
    assert submission is not None and (submission.nodes, submission.parts) == (2, ["joint"])
    expected = Probe(run=alone)()["joint"]
    report = read_json(run / "probe" / "split" / "joint.json")
    assert {name: report[name] for name in expected} == expected
    rows = [features.place(where, packed.content_id, "joint").read_bytes() for where in (run, alone)]
    assert rows[0] == rows[1]
