"""Text features as an array on a real Slurm: a task that dies is started again inside its slice, and the store is the same to the byte."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from jobs import caption_slices as slices
from jobs.encode_text import EncodeText
from jobs.text import TextStore
from launch.unit import Unit
from tests.slurm.box import Box
from tests.slurm.conftest import launch, wait_for
from tests.slurm.test_captions import SLOW_DISK, tasks

SAID = [f"The person raises the {'left' if i % 2 else 'right'} hand for the {i}th time." for i in range(240)]


def test_slices_of_captions_and_a_task_that_is_killed(box: Box, tmp_path: Path) -> None:
    captions, out, runs = tmp_path / "captions.json", tmp_path / "features", tmp_path / "runs"
    captions.write_text(json.dumps({f"k{i:04d}": SAID[i % len(SAID)] for i in range(2 * len(SAID))}))
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(SLOW_DISK)
    python, profile = tmp_path / "python", tmp_path / "profile.toml"
    slow = f'case "$*" in *submitit*) export PYTHONPATH="{tmp_path}/fault:$PYTHONPATH" ;; esac'
    python.write_text(f'#!/bin/sh\n{slow}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    profile.write_text(f'cpus_per_task = 1\ntime = "20"\npython = "{python}"\n')
    command = ["--captions", captions, "--out", out, "--encoder", "hash", "--slice", "60", "--batch", "6", "--array", "4"]
    where = ["--cluster", "slurm", "--cluster-profile", profile]
    submitted = launch("encode_text", *command, *where, "--json", ACSAR_RUNS=str(runs))
    assert submitted.returncode == 0, submitted.stderr
    assert set(json.loads(submitted.stdout)["jobs"]) == {"encode-text", "gather"}
    unit, killed = Unit(runs / "encode-text-features", "encode-text"), list[int]()

    def one_is_killed() -> bool:
        plan = slices.read_plan(out)
        inside = {int(name) for name in plan.unfinished if slices.written(out, name)}
        for pid, element in tasks(box, unit.logs, "n1", "n2", "n3", "n4").items():
            with suppress(ProcessLookupError):
                if int(element) not in inside:
                    continue
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return True
        return False

    wait_for(one_is_killed, 200, every=0.05)
    wait_for(lambda: (out / "index.jsonl").is_file() or not box.run("squeue", "-h"), 300)
    seen = launch("status", "encode-text-features", "--runs", runs)
    assert "240/240 captions" in seen.stdout and killed, seen.stdout
    store = TextStore.open(out)
    assert len(store.rows) == 240 and store.lacking(SAID) == []
    plan = slices.read_plan(out)
    assert sorted(plan.names) == ["0000", "0001", "0002", "0003"] and not plan.unfinished
    heads = [slices.read_attempt(path)[0] for name in plan.names for _, path in slices.attempts(out, name)]
    assert len(heads) == 5 and 0 < heads[[head["attempt"] for head in heads].index(2)]["known"] < 60, "taken up in its middle"

    whole = tmp_path / "whole"
    EncodeText(captions, whole, encoder="hash")()
    assert all((whole / name).read_bytes() == (out / name).read_bytes() for name in ("texts.npy", "index.jsonl"))
    again = launch("encode_text", *command, *where, "--wait", "--json", ACSAR_RUNS=str(runs))
    assert again.returncode == 0 and again.stderr.count("finished before") == 2 and json.loads(again.stdout)["rows"] == 240
