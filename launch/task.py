"""What submitit runs for every rank: a file name and two words. The job itself is read from its JSON file when the task starts."""

import hashlib
import os
import signal
import sys
from pathlib import Path

from submitit.helpers import TorchDistributedEnvironment

from jobs import cores, interrupts
from jobs.stages import TRAINING
from launch.forwarder import forwarding

PORTS = (20000, 30000)  # below the range that systems give to clients by themselves


def run(description: str, part: str, stage: str) -> int:
    """Run one part of the described stage on this rank; the worker's exit code."""
    prepare(stage)
    from jobs.worker import work  # torch

    return work(Path(description), part, stage)


def run_and_exit(description: str, part: str, stage: str) -> None:
    """Like `run`, as a Slurm task: the process ends with the code, so that srun and the batch script see it and no result is pickled."""
    prepare(stage)
    with forwarding(Path(os.environ["ACSAR_LOGS"]).parent):
        from jobs.worker import work

        code = work(Path(description), part, stage)
    sys.exit(code)


def prepare(stage: str) -> None:
    """What signals mean to this rank, and who it is."""
    if stage in TRAINING:
        interrupts.listen()  # a signal that comes while the heavy imports run must count, not kill
    else:
        for number in (signal.SIGTERM, interrupts.preemption()):
            signal.signal(number, signal.SIG_DFL)  # what other stages have done lies in files; they end, and go on when started again
    # a site may count hyper-threads, or more processors than there are; threads that wait for each other's turn cost a multiple
    os.environ["OMP_NUM_THREADS"] = str(min(int(os.environ.get("OMP_NUM_THREADS", cores())), cores()))
    export_ranks()


def export_ranks() -> None:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT from what the scheduler says of this task."""
    if "SLURM_STEP_NODELIST" in os.environ:  # the ranks may have been started on fewer hosts than the job holds
        os.environ["SLURM_JOB_NODELIST"] = os.environ["SLURM_STEP_NODELIST"]
        os.environ["SLURM_JOB_NUM_NODES"] = os.environ["SLURM_STEP_NUM_NODES"]
    tag = os.environ.get("ACSAR_TAG")
    if tag:
        os.environ["MASTER_PORT"] = str(port(tag))
    # the device is chosen by LOCAL_RANK, so every task must see all GPUs
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def port(tag: str) -> int:
    """A port for the first rank to listen on: another one for every job, restart and round."""
    low, high = PORTS
    return low + int.from_bytes(hashlib.sha256(tag.encode()).digest()[:4], "big") % (high - low)
