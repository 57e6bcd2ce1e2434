"""A packed set of 48 short clips and the flags of a small network: pretraining in seconds, for tests of what surrounds it."""

from pathlib import Path

import numpy as np

from jobs.pack import Pack
from shards import write_exchange

TINY = ["--method.c1", "8", "--method.width", "16", "--method.heads", "2", "--method.out", "8", "--method.queue", "8", "--batch-size", "8"]


def packed_clips(folder: Path) -> Path:
    """48 clips of 4 classes by 12 people, every other one for training, packed below `folder`."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(4), 12)
    clips = [rng.normal(size=(20, 1, 25, 3)).astype(np.float32) + np.arange(25)[None, None, :, None] * (1 + i) for i in label]
    subject = np.tile(np.arange(1, 13), 4)
    write_exchange(
        folder / "moves.npz",
        clips,
        label=label,
        subject=subject,
        name=[f"clip{i:02d}" for i in range(48)],
        split=["train" if s % 2 else "test" for s in subject],
    )
    Pack(data=folder / "moves.npz", out=folder / "packed", jobs=1)()
    return folder / "packed"
