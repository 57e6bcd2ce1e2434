"""Run folders as training, probing and fusing write them, made in milliseconds: for tests and for looking at the tracker's pages."""

import json
import math
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.run_folder import RunFolder, record_start, write_json
from launch.unit import Submission

BEGAN = 1_760_000_000.0
STREAMS = ("joint", "bone", "motion")
METHOD = {
    "stream": "joint", "stem": "shared", "c1": 16, "width": 64, "heads": 1, "out": 64, "queue": 256, "tau": 0.2, "ema": 0.999,
    "augmentation": {"probability": 0.5, "masked_joints": 8}, "tau_cross": 0.15, "weight": 0.5, "interaction": "film",
}  # fmt: skip
# the stream joint in Slurm's queue
SUBMITTED = Submission(
    stage="pretrain",
    description="",
    parts=["joint"],
    jobs=[("12", 0, 1)],
    nodes=4,
    tasks_per_node=1,
    cpus_per_task=1,
    gpus_per_node=0,
    profile={},
    snapshot="",
)


def config(name: str, stream: str, steps: int, **changes: Any) -> dict[str, Any]:
    """A config.json; `changes` replace fields of the job."""
    job = {
        "data": "packed/synthetic", "name": name, "method": METHOD, "recipe": "demo", "batch_size": 32, "lr": 0.01, "epochs": None,
        "steps": steps, "runs": "runs", "protocol": "xsub", "streams": list(STREAMS), "momentum": 0.9, "weight_decay": 1e-4, "seed": 0,
        "nodes": 4, "zero": 0, "precision": "auto", "save_every": 50, "stop_after": None, "workers": 0,
    }  # fmt: skip
    facts = {
        "content_id": "5a" * 32, "protocol": job["protocol"], "benchmark": "synthetic", "supervision": "text-from-label",
        "provenance": "program", "commit": "c0ffee" * 6 + "beef+changes", "versions": {"python": "3.11.9", "torch": "2.6.0"},
        "host": "example", "pid": 1, "device": "cpu", "train": 480, "test": 240, "aside": 32, "steps": steps, "steps_per_epoch": 15,
    }  # fmt: skip
    return {"job": {**job, **changes}, "stream": stream, "facts": {**facts, "protocol": changes.get("protocol", "xsub")}}


def step_record(step: int, shift: float = 0.0) -> dict[str, Any]:
    """The record of one completed step; `shift` makes another attempt's numbers differ."""
    terms = {"gs": 2.0, "gt": 1.8, "sg": 1.7, "tg": 1.6, "text": 1.2}
    losses = {term: start * (0.6 + 0.8 * math.exp(-step / 60)) + 0.05 * math.sin(step) + shift for term, start in terms.items()}
    return {
        "type": "step", "time": BEGAN + step * 0.4, "step": step, "epoch": (step - 1) // 15, "loss": sum(losses.values()), "losses": losses,
        "lr": 0.01 if step < 90 else 0.001, "step_ms": 390.0 + 20 * math.sin(step), "data_wait_ms": 4.0, "samples_per_s": 32 / 0.39,
        "equal_captions": 0.02,
    }  # fmt: skip


def start_record(attempt: int, step: int, steps: int, **changes: Any) -> dict[str, Any]:
    """The record that opens an attempt."""
    here = {"host": socket.gethostname(), "pid": os.getpid(), "world": 4, "threads": 1}
    fields = {"attempt": attempt, "step": step, "resumed_from": "", "steps": steps, "steps_per_epoch": 15, **here}
    return {"type": "start", "time": BEGAN + step * 0.4, **fields, **changes}


def append(folder: Path, attempt: int, records: Sequence[dict[str, Any]]) -> None:
    """Write records to an attempt's journal, as training would."""
    path = RunFolder(folder).journal(attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def begin(folder: Path, attempt: int, start: str, steps: int, **changes: Any) -> None:
    """Claim an attempt and open its journal."""
    step = int(start.removeprefix("step_").partition(".")[0]) if start else 0
    record_start(RunFolder(folder), attempt, start, {})
    append(folder, attempt, [start_record(attempt, step, steps, **changes)])


def training(folder: Path, first: int, last: int, attempt: int = 1, shift: float = 0.0) -> None:
    """Steps first..last with an evaluation every 30."""
    records = []
    for step in range(first, last + 1):
        records.append(step_record(step, shift))
        if step % 30 == 0:
            metrics = {"held_aside_knn1": 30 + 40 * (1 - math.exp(-step / 60)), "text_reliance": 0.1, "text_reliance_share": 0.03}
            records.append({"type": "eval", "time": BEGAN + step * 0.4, "step": step, "metrics": metrics})
    append(folder, attempt, records)


def end(folder: Path, step: int, status: str = "finished", attempt: int = 1) -> None:
    """The attempt's last record."""
    append(folder, attempt, [{"type": "end", "time": BEGAN + step * 0.4 + 1, "step": step, "status": status, "message": ""}])


def comparison(runs: Path, name: str, steps: int = 120, streams: Sequence[str] = STREAMS, **changes: Any) -> Path:
    """A finished comparison: pretrained, probed, fused, drawn."""
    for rank, stream in enumerate(streams):
        folder = runs / name / stream
        write_json(folder / "config.json", config(name, stream, steps, **changes))
        begin(folder, 1, "", steps)
        training(folder, 1, steps, shift=0.1 * rank)
        end(folder, steps)
        write_json(folder / "result.json", {"status": "finished", "steps": steps})
        protocol = str(changes.get("protocol", "xsub"))
        numbers = {"linear": 71.5 - 3 * rank, "knn1": 64.0 - 2 * rank, "random_linear": 55.0, "random_knn1": 48.0, "raw_linear": 60.0}
        numbers |= {"raw_knn1": 52.0, "n": 240}
        intervals = {key: [value - 4.0, value + 4.0] for key, value in numbers.items() if key != "n"}
        words = {"interval_over": "subjects", "sentences": [f"{stream}: linear is above its random encoder"], "transductive": False}
        gap = {"differences": {"linear_over_random": {"value": numbers["linear"] - 55.0, "interval": [5.0, 20.0]}}}
        report = {**numbers, "top5": 95.0, "intervals": intervals, "sample_intervals": intervals, **gap, **words}
        write_json(runs / name / "probe" / protocol / f"{stream}.json", report)
    subsets = {"J": {"top1": 71.5, "top5": 93.0, "intervals": {"top1": [67.0, 76.0]}}}
    fused = {"streams": list(streams), "top1": 76.0, "top5": 95.0, "n": 240, "protocol": "xsub", "subsets": subsets}
    write_json(runs / name / "fuse" / "xsub.json", fused)
    figure = runs / name / "figures" / "confusion.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_bytes(PIXEL)
    return runs / name


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8cfc0f01f0005050102cf7ff05e0000000049454e44ae426082"
)
