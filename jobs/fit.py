"""One training on this rank from its start to its outcome, whatever is trained: what pretraining and fine-tuning share.

Ranks, attempts, checkpoints, journal, heartbeat, interruptions and config.json are here; what is learned from what is the subclass's.
"""

import contextlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from acsar.types import Batch, Method
from jobs import checkpoint, environment, failures, interrupts, journal
from jobs import engine as deepspeed
from jobs.codec import encode
from jobs.configuration import finished, submission
from jobs.heartbeat import Heartbeat
from jobs.run_folder import RunFolder, write_json, writing
from jobs.schedule import Schedule
from jobs.train_loop import Cadence, Interrupted, Outcome, train
from shards.errors import InputError
from shards.stream import PackedSet


class Planned(Protocol):
    """The part of a plan's arithmetic that every training has."""

    @property
    def steps(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...


@dataclass
class Fit(ABC):
    """One stream on this rank. A subclass says what `data`, `method`, `facts`, `schedule`, `train` and `finish` are."""

    job: Any  # a dataclass: its fields are the configuration
    stream: str
    folder: RunFolder
    packed: PackedSet
    ranks: deepspeed.Ranks
    beat: Heartbeat
    plan: Any = field(init=False)  # a Planned, from `prepare` on

    @abstractmethod
    def prepare(self) -> None:
        """Choose samples and make `plan`, on every rank. Raises InputError for what does not fit the data or the ranks."""

    @abstractmethod
    def method(self) -> Method:
        """What is trained, the same on every rank."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What config.json says besides the job."""

    @abstractmethod
    def schedule(self) -> Schedule:
        """The learning rate by step."""

    @abstractmethod
    def train(
        self,
        engine: deepspeed.DeepSpeedEngine,
        method: Method,
        start: checkpoint.Start,
        records: journal.Journal,
        interrupted: Interrupted,
    ) -> Outcome:
        """Run the loop from the start's step on; see `loop`."""

    @abstractmethod
    def finish(self, method: Method, attempt: int, outcome: Outcome) -> dict[str, Any]:
        """Called on every rank when the loop has left: at the schedule's end the results as files, result.json last; what it says."""

    def __call__(self, interrupted: Interrupted) -> dict[str, Any]:
        job, ranks, self.beat.phase = self.job, self.ranks, "loading"
        deepspeed.on_first(ranks, self.packed.verify)
        self.prepare()
        method = self.method()
        start = checkpoint.begin(self.folder, ranks, job.zero, {**environment.facts(), **submission()})
        self.keep = checkpoint.Keep(job.keep_last, job.keep_every)
        self.beat.attempt, self.beat.step = start.attempt, start.step
        bf16 = deepspeed.use_bf16(job.precision, ranks.device)
        engine = deepspeed.wrap(method, ranks, self.batch_size, job.momentum, job.weight_decay, job.zero, bf16)
        with journal.Journal(self.folder.journal(start.attempt) if ranks.rank == 0 else None, start.step) as records:
            self.begin(records, start, bf16)
            try:
                if start.checkpoint:
                    checkpoint.resume(engine, self.folder, start, self.schedule())
                outcome = self.train(engine, method, start, records, interrupted)
                result = self.finish(method, start.attempt, outcome)
            except BaseException as error:
                with contextlib.suppress(InputError):  # a full disk is why it ends, or will not take this line either
                    records.write("end", step=records.step, status="failed", message=f"{type(error).__name__}: {error}")
                raise
            records.write("end", step=outcome.step, status=outcome.status, message=outcome.message)
        engine.destroy()
        if outcome.status == "nonfinite":
            raise InputError(
                f"the loss of {self.folder.path} is not finite: {outcome.message}; the newest checkpoint stays; "
                "give another --name with a lower --lr or a longer --warmup"
            )
        return result

    @property
    def batch_size(self) -> int:
        """Global batch, over all ranks."""
        return int(self.job.batch_size)

    def begin(self, records: journal.Journal, start: checkpoint.Start, bf16: bool) -> None:
        """config.json at the first attempt; the journal's start record and notes."""
        if self.ranks.rank == 0 and not self.folder.config.is_file():
            with writing(self.folder.path):
                write_json(self.folder.config, {"job": encode(self.job), "stream": self.stream, "facts": self.facts()})
        records.write(
            "start",
            attempt=start.attempt,
            step=start.step,
            resumed_from=start.checkpoint or None,
            steps=self.plan.steps,
            steps_per_epoch=self.plan.steps_per_epoch,
            world=self.ranks.world,
            host=socket.gethostname(),
            pid=os.getpid(),
            threads=torch.get_num_threads(),
            **submission(),
        )
        for text in (self.ranks.note, "bf16 autocast over fp32 parameters" if bf16 else "fp32", *start.notes):
            records.write("note", text=text)

    def cadence(self) -> Cadence:
        """When things happen, in steps."""
        job, per_epoch = self.job, self.plan.steps_per_epoch
        return Cadence(job.seed, self.batch_size, per_epoch, job.save_every, job.evaluate_every * per_epoch, job.stop_after or 0)

    def evaluations(self) -> dict[int, dict[str, Any]]:
        """{step: metrics} of the evaluations so far, of every attempt that counts."""
        return {record["step"]: record["metrics"] for record in journal.read(self.folder.path) if record["type"] == "eval"}

    def loop(
        self,
        engine: deepspeed.DeepSpeedEngine,
        batches: Iterable[Batch],
        start: checkpoint.Start,
        records: journal.Journal,
        interrupted: Interrupted,
        evaluate: Callable[[int], bool],
        equal_captions: Callable[[int], float | None] = lambda step: None,
    ) -> Outcome:
        """The training loop over these batches, with this run's schedule, cadence and checkpoints."""

        def save(step: int) -> None:
            self.beat.phase = "save"
            checkpoint.save(engine, self.folder, start.attempt, step, self.ranks, records, self.keep)

        return train(
            engine,
            batches,
            self.schedule(),
            start.step,
            self.cadence(),
            records,
            self.beat,
            interrupted,
            save=save,
            evaluate=evaluate,
            equal_captions=equal_captions,
        )


Make = Callable[[Any, str, RunFolder, PackedSet, deepspeed.Ranks, Heartbeat], Fit]


def fit(job: Any, stream: str, folder: RunFolder, data: Path, ids: Mapping[str, str], make: Make) -> dict[str, Any]:
    """Train one stream of the job in its folder to the end, to --stop-after or until a signal, from wherever it stands; every rank calls
    this. `ids`: what else than the data makes it this experiment (jobs.configuration.IDS).

    Returns {"status": "finished" | "stopped" | "interrupted", "step", ...}: what result.json holds once it is finished.
    Raises InputError for what the user can mend."""
    if job.keep_last < 1:
        raise InputError(f"--keep-last {job.keep_last} would keep no checkpoint to go on from; use 1 or more")
    with interrupts.listening() as interrupted, Heartbeat(folder.heartbeat, failures.rank()) as beat, deepspeed.join() as ranks:
        packed = deepspeed.on_all(ranks, lambda: PackedSet.open(data))
        # one rank decides for all: a disk may show the same file to one host sooner than to another
        result = deepspeed.on_first(ranks, lambda: finished(folder, job, {"content_id": packed.content_id, **ids}))
        return result or make(job, stream, folder, packed, ranks, beat)(interrupted)
