"""Runs a function on several real gloo processes of this machine and collects what each returns."""

import datetime
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(fn: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """[fn(rank, world, *args) of each rank]; fn lives at the top level of an importable module, results are picklable.

    torch.distributed (gloo) is initialised on every rank, also when world is 1. A rank's exception is raised here with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_one_rank, (fn, world, folder, args), nprocs=world)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _one_rank(rank: int, fn: Callable[..., Any], world: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", rendezvous, rank=rank, world_size=world, timeout=datetime.timedelta(seconds=120))
    torch.save(fn(rank, world, *args), Path(folder) / f"{rank}.pt")
    # Leaving early would break a neighbour's last exchange.
    dist.barrier()
    dist.destroy_process_group()
