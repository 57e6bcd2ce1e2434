"""The smallest thing that must survive a kill, one file written whole, at every operation; quick, and a proof that the library works."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults.nursery import ROOT

SCRIPT = """
import os, sys
from pathlib import Path
from jobs.run_folder import write_json
from tests.faults.shim import Fault, armed, faults, logs

folder, log = Path(sys.argv[1]), Path(sys.argv[2])

def one(fault):
    write_json(folder / "value.json", "old")
    child = os.fork()
    if not child:
        with armed(fault, 0, folder, log / "0"):
            write_json(folder / "value.json", "new" * 5000)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(fault.harm, fault.operation, status, (folder / "value.json").read_text()[1:4])

one(Fault())
for fault, operation in list(faults(logs(log, 1))):
    one(fault)
one(Fault(0, "full", 2))
"""


def test_a_file_is_written_whole_or_not_at_all(library: Path, tmp_path: Path, figure: Callable[[str], None]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "log").mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "folder"), str(tmp_path / "log")]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr
    # 1 mkdir, 2 open, 3 write, 4 fsync, 5 rename, 6 fsync of the folder
    killed = [f"before {k} -9 {'old' if k <= 5 else 'new'}" for k in range(1, 7)]
    killed += [f"after {k} -9 {'old' if k < 5 else 'new'}" for k in range(1, 7)] + ["torn 3 -9 old"]
    told = ended.stdout.splitlines()
    assert sorted(told) == sorted(["count 0 0 new", *killed, "full 2 1 old"]), told
    figure(f"one file: n = 6, {len(killed)} kills, old or new each time")
