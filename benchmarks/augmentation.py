"""Two augmented views per sample: ours (batched) against the published feeder (one sample after another).

python -m benchmarks.augmentation [--peer PATH]; PATH is a checkout of SCD-Net, whose feeder/ runs as it is. Both run on one thread of
a process with the memory settings of a training rank, and CPU time is counted, so that a busy machine disturbs little.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from acsar.augment import Augmentation, views
from acsar.draws import base
from acsar.skeleton import NTU25
from acsar.streams import STREAMS, Stream
from benchmarks.table import Row, show
from launch.pool import KEEP_MEMORY

BATCH, STORED, VALID, ROUNDS = 64, 300, 90, 15


def measure(peer: Path | None = None) -> list[Row]:
    """One row per stream, runs of ours and the peer's alternating."""
    if peer and not (peer / "feeder" / "feeder_pretraining.py").is_file():
        raise SystemExit(f"{peer} is no checkout of SCD-Net: feeder/feeder_pretraining.py is missing")
    command = [sys.executable, "-m", "benchmarks.augmentation", "--json", *(["--peer", str(peer.resolve())] if peer else [])]
    environment = os.environ | KEEP_MEMORY | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parent.parent
    said = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [Row(*row) for row in json.loads(said)]


def _rows(peer: Path | None) -> list[Row]:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    clips = rng.standard_normal((BATCH, 3, STORED, 25, 2), dtype=np.float32)
    clips[:, :, VALID:] = 0
    with tempfile.TemporaryDirectory() as folder:
        return [_row(name, clips, peer, Path(folder)) for name in STREAMS]


def _row(name: Stream, clips: np.ndarray, peer: Path | None, folder: Path) -> Row:
    joints, frames = torch.from_numpy(clips), torch.full((BATCH,), VALID)
    draws, config = base(0, 0, torch.arange(BATCH)), Augmentation()

    def ours() -> None:
        views(joints, frames, draws, name, NTU25, config)

    runs: list[Callable[[], None]] = [ours]
    if peer is not None:
        feeder = _published(peer, clips, name, folder)
        runs.append(lambda: [feeder[i] for i in range(BATCH)] and None)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, spent in zip(runs, seconds):
            began = time.process_time()
            run()
            spent.append(time.process_time() - began)
    per_sample = [1e3 * median(spent[1:]) / BATCH for spent in seconds]
    theirs = per_sample[1] if peer is not None else None
    return Row(f"augmentation, two views, {name}", per_sample[0], "ms CPU", theirs, theirs / per_sample[0] if theirs else None)


def _published(peer: Path, clips: np.ndarray, name: str, folder: Path) -> Any:
    """The published data set object over the same clips, held in memory."""
    np.save(folder / "joint.npy", clips)
    np.save(folder / "frames.npy", np.full(BATCH, VALID))
    with _importable(peer), contextlib.redirect_stdout(io.StringIO()):
        from feeder import augmentations, feeder_pretraining

        # Its crop converts a one-element array to int, which numpy 2.4 refuses: hand it the scalar.
        augmentations.np = _ScalarDraws(np)
        return feeder_pretraining.Feeder(str(folder / "joint.npy"), str(folder / "frames.npy"), [0.1, 1], 64, name, mmap=False)


class _ScalarDraws:
    """numpy, except that random.rand(1) is a number."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return _ScalarDraws(self.target.random) if name == "random" else getattr(self.target, name)

    def rand(self, *shape: int) -> Any:
        return self.target.rand() if shape == (1,) else self.target.rand(*shape)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of SCD-Net to compare with")
    parser.add_argument("--json", action="store_true", help="measure in this very process and print JSON")
    args = parser.parse_args()
    if args.json:
        print(json.dumps(_rows(args.peer)))
        return
    show(measure(args.peer))


if __name__ == "__main__":
    main()
