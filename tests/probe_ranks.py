"""Probes a run on 1, 2 and 4 gloo ranks: one script that imports once and forks its ranks. Usage: python -m tests.probe_ranks FOLDER"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.rendezvous

from acsar import probes
from jobs.probe import Probe
from launch.pool import free_port, rank_environment

WORLDS = (1, 2, 4)


def main(folder: Path) -> int:
    """Probe FOLDER/wN/run by N ranks for each N; rank r leaves what it got in FOLDER/wN/R.json. Returns the worst exit code."""
    short = replace(probes.unit(), epochs=3, drops=(2,))
    probes.SCHEDULES["official"] = lambda benchmark="": short
    codes = [0]
    for world in WORLDS:
        port, here = free_port(), folder / f"w{world}"
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                os.environ.update(rank_environment(rank, world, 0, port, 1))
                if world == 1:
                    del os.environ["WORLD_SIZE"]
                torch.set_num_threads(1)
                result = Probe(run=here / "run", runs=here)()
                (here / f"{rank}.json").write_text(json.dumps(result))
                os._exit(0)
            children.append(child)
        codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return max(codes, key=abs)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
