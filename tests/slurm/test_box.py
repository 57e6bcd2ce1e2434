"""The box itself: nodes that can be cut off, killed and mended; boxes that leave each other, and nothing behind them, alone."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.slurm import box as boxes
from tests.slurm.box import Box, BoxError
from tests.slurm.conftest import new_box, wait_for

SCRIPT = Path(boxes.__file__)


def of_box(root: Path) -> list[int]:
    """Processes that were started by, or run on the nodes of, the box at this folder."""
    mark = f"ACSAR_BOX={root}\0".encode()
    environments = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/environ")}
    return [pid for pid, path in environments.items() if path.is_file() and mark in read(path)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def left_of(root: Path, index: int) -> list[str]:
    """What a box that is down should not have left. Its number may have been taken by a box of somebody else at once."""
    names = [line.split()[0] for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines()]
    links = sorted(path.name for path in Path("/sys/class/net").iterdir())
    ours = boxes.bridges().get(index, root) == root
    mine = [name for name in names + links if ours and name.startswith((f"acsar{index}-", f"acsar{index}v", f"acsarbr{index}"))]
    return mine + [str(pid) for pid in of_box(root)] + [str(root)] * root.exists()


def test_two_boxes_side_by_side(box: Box) -> None:
    other = new_box(nodes=2, cpus=2, gpus=2, accounting=False, max_array_size=5)
    root, index = other.root, other.index
    try:
        assert index != box.index
        assert other.run("srun", "-N2", "--gpus-per-node=2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES").splitlines() == ["0,1", "0,1"]
        job = other.run("sbatch", "--parsable", "-N2", "--output=/dev/null", "--wrap", "srun sleep 300")
        wait_for(lambda: other.states() == {"n1": "mix", "n2": "mix"}, 20)
        assert box.idle() == 4 and job not in box.run("squeue", "-h", "-t", "all", "-o", "%i")
        with pytest.raises(subprocess.CalledProcessError) as refused:
            other.run("sbatch", "--array=0-5", "--wrap", "true")
        assert "Invalid job array" in refused.value.stderr
        with pytest.raises(subprocess.CalledProcessError):
            other.run("sacct")
        other.down()
        assert left_of(root, index) == []
        other.down()
        with pytest.raises(BoxError, match="up --root"):
            other.cut("n1")
        assert sorted(box.run("srun", "-N4", "hostname").split()) == box.names
    finally:
        other.down()


def test_every_node_has_a_disk_of_its_own(box: Box) -> None:
    box.run("srun", "-N4", "sh", "-c", f"hostname > {box.node_local}/name")
    told = box.run("srun", "-N4", "sh", "-c", f"test $(cat {box.node_local}/name) = $(hostname) && stat -f -c %T {box.node_local}")
    assert told.split() == ["tmpfs"] * 4
    assert not (box.node_local / "name").exists()


def test_nodes_that_are_cut_off_or_lose_slurmd_or_die_are_seen_and_come_back(box: Box, tmp_path: Path) -> None:
    line = f"srun sh -c 'while sleep 0.2; do hostname >> {tmp_path}/$(hostname); done'"
    job = box.run("sbatch", "--parsable", "-N4", "--no-requeue", "--output=/dev/null", "--wrap", line)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 4, 30)
    box.cut("n2")
    box.kill_slurmd("n3")
    box.kill_node("n4")
    assert box.pids("n2") and box.pids("n3") and not box.pids("n4")
    written = {name: (tmp_path / name).stat().st_size for name in ("n2", "n3", "n4")}
    wait_for(lambda: all(box.states()[name] == "down*" for name in ("n2", "n3", "n4")), 120)
    wait_for(lambda: box.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T") == "NODE_FAIL", 60)
    grown = {name: (tmp_path / name).stat().st_size - size for name, size in written.items()}
    assert grown["n2"] > 0 and grown["n3"] > 0 and grown["n4"] == 0
    box.mend("n2")
    box.start_slurmd("n3")
    box.start_slurmd("n4")
    wait_for(lambda: box.idle() == 4, 120)
    assert sorted(box.run("srun", "-N4", "hostname").split()) == box.names


def test_the_box_of_a_killed_session_is_swept_away(box: Box) -> None:
    root = Path(tempfile.mkdtemp(prefix="acsar-box-"))
    start = "import sys, time; from tests.slurm.box import Box; b = Box(sys.argv[1], nodes=1, accounting=False, owned=True).up(); "
    command = [sys.executable, "-c", start + "print(b.index, flush=True); time.sleep(300)", str(root)]
    with subprocess.Popen(command, cwd=SCRIPT.parents[2], stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        index = int(session.stdout.readline())
        assert root not in boxes.sweep()
        session.send_signal(signal.SIGKILL)
    assert left_of(root, index) != []
    assert root in boxes.sweep()
    assert left_of(root, index) == []
    assert box.idle() == 4


def test_the_command_line_says_what_is_wrong(box: Box, tmp_path: Path) -> None:
    def typed(*words: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, timeout=120)

    assert typed("env", "--root", box.root).stdout == f"export SLURM_CONF={box.conf}\n"
    assert "4 nodes are up" in typed("up", "--root", box.root).stderr
    wrong = typed("cut", "n9", "--root", box.root)
    assert wrong.returncode == 2 and "nodes: n1, n2, n3, n4" in wrong.stderr
    wrong = typed("up", "--root", tmp_path / "none", "--nodes", "0")
    assert wrong.returncode == 2 and "--nodes 0" in wrong.stderr and not (tmp_path / "none").exists()
    (tmp_path / "mine").write_text("precious")
    wrong = typed("up", "--root", tmp_path)
    assert wrong.returncode == 2 and "not a box" in wrong.stderr and (tmp_path / "mine").exists()
    assert typed("down", "--root", tmp_path).returncode == 0 and (tmp_path / "mine").exists()
    assert os.environ["SLURM_CONF"] == str(box.conf)
