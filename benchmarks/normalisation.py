"""Parsing an NTU `.skeleton` file and normalising it, per sample, against the published per-sample loops of SCD-Net.

python -m benchmarks.normalisation [--peer PATH]        PATH: a checkout of github.com/cong-wu/SCD-Net
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from acsar.skeleton import NTU25
from benchmarks.table import Row, show
from shards.kinect import skeleton_text
from shards.normalise import normalise
from shards.ntu import Recording, parse, parse_clip

FRAMES = 84
"""A typical NTU RGB+D clip."""
PADDED = 300
ROUNDS = 7


Work = Callable[[], object]


def measure(peer: Path | None = None) -> list[Row]:
    """Rows for one and two persons: parse, all fields, normalise, and parse + normalise together."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, peer_modules(peer) as published:
        for persons in (1, 2):
            file = Path(folder) / f"S001C001P00{persons}R001A001.skeleton"
            file.write_text(skeleton_text(recording(persons)))
            rows += _rows(file, f"{persons} person" + "s" * (persons > 1), published)
    return rows


def recording(persons: int) -> Recording:
    """A made-up recording in which every body is there in every frame."""
    rng = np.random.default_rng(persons)
    count = FRAMES * persons
    joints = rng.standard_normal((count, 25, 12))
    return Recording(
        frames=FRAMES,
        frame=np.repeat(np.arange(FRAMES), persons),
        slot=np.tile(np.arange(persons), FRAMES),
        body_id=np.tile(72057594037930000 + np.arange(persons), FRAMES).astype(np.uint64),
        flags=np.zeros((count, 6), np.int64),
        lean=rng.standard_normal((count, 2)),
        tracking=np.full(count, 2),
        joints=joints,
    )


def _rows(file: Path, what: str, published: tuple[Any, Any] | None) -> list[Row]:
    clip = parse_clip(file.read_bytes(), str(file))

    def whole() -> object:
        return normalise(parse_clip(file.read_bytes(), str(file)), "agcn", NTU25)

    ours: dict[str, Work] = {
        "parse": lambda: parse_clip(file.read_bytes(), str(file)),
        "parse, all fields": lambda: parse(file.read_bytes(), str(file)),
        "normalise agcn": lambda: normalise(clip, "agcn", NTU25),
        "normalise ctrgcn": lambda: normalise(clip, "ctrgcn", NTU25),
        "parse + normalise": whole,
    }
    theirs: dict[str, Work] = {}
    if published is not None:
        gendata, preprocess = published
        padded = np.zeros((1, 3, PADDED, 25, 2), np.float32)
        padded[0, :, :FRAMES] = gendata.read_xyz(str(file))
        theirs = {
            "parse": lambda: gendata.read_xyz(str(file)),
            "parse, all fields": lambda: gendata.read_skeleton_filter(str(file)),
            "normalise agcn": lambda: _quietly(lambda: preprocess.pre_normalization(padded.copy())),
            "parse + normalise": lambda: _quietly(lambda: _published(gendata, preprocess, file)),
        }
    return [_row(f"{name}, {what}", work, theirs.get(name)) for name, work in ours.items()]


def _published(gendata: Any, preprocess: Any, file: Path) -> object:
    padded = np.zeros((1, 3, PADDED, 25, 2), np.float32)
    padded[0, :, :FRAMES] = gendata.read_xyz(str(file))
    return preprocess.pre_normalization(padded)


def _quietly(work: Work) -> object:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return work()


def _row(what: str, ours: Work, peer: Work | None) -> Row:
    """Rounds alternate, so that both see the same state of the machine; ours repeats within a round to be measurable."""
    mine, others = [], []
    for _ in range(ROUNDS):
        mine.append(_milliseconds(ours, 20))
        if peer is not None:
            others.append(_milliseconds(peer, 1))
    slow = median(others) if others else None
    return Row(what, median(mine), "ms CPU", slow, slow / median(mine) if slow is not None else None)


def _milliseconds(work: Work, repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats * 1e3


@contextlib.contextmanager
def peer_modules(peer: Path | None) -> Iterator[tuple[Any, Any] | None]:
    """The peer's data_gen.ntu_gendata and data_gen.preprocess, importable only inside."""
    if peer is None:
        yield None
        return
    paths, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(peer))
    try:
        yield importlib.import_module("data_gen.ntu_gendata"), importlib.import_module("data_gen.preprocess")
    finally:
        sys.path[:] = paths
        for name in set(sys.modules) - modules:
            if name.split(".")[0] == "data_gen":
                del sys.modules[name]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of the published code; without it the peer is not measured")
    show(measure(parser.parse_args().peer))


if __name__ == "__main__":
    main()
