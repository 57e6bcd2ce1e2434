"""The training loop: one screen, no method's name in it."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from acsar.types import Batch
from jobs import engine as deepspeed
from jobs.heartbeat import Heartbeat
from jobs.journal import Journal
from jobs.schedule import Schedule

Interrupted = Callable[[], bool]


@dataclass(frozen=True)
class Cadence:
    """When things happen, in completed steps (0 = never)."""

    seed: int
    batch_size: int
    steps_per_epoch: int
    save_every: int
    evaluate_every: int
    stop_after: int

    def evaluates(self, done: int, steps: int) -> bool:
        """Whether an evaluation is due after `done` of `steps` steps."""
        return self.evaluate_every > 0 and done > 0 and (done == steps or done % self.evaluate_every == 0)


@dataclass(frozen=True)
class Outcome:
    """Where the loop ended: completed steps; finished, stopped, interrupted or nonfinite; and why."""

    step: int
    status: str
    message: str = ""


def train(
    engine: deepspeed.DeepSpeedEngine,
    batches: Iterable[Batch],
    schedule: Schedule,
    first: int,
    cadence: Cadence,
    journal: Journal,
    beat: Heartbeat,
    interrupted: Interrupted,
    save: Callable[[int], None],
    evaluate: Callable[[int], bool],
    equal_captions: Callable[[int], float | None],
) -> Outcome:
    """Train from completed step `first` to the schedule's end, a stop or a signal. Every rank runs it and leaves at the same step.

    evaluate: True on every rank when this step is worth a checkpoint of its own."""
    rank, stream = dist.get_rank(), iter(batches)
    for step in range(first, schedule.steps):
        if step >= cadence.stop_after > 0:
            return Outcome(step, "stopped", f"--stop-after {cadence.stop_after}")
        began, beat.phase = time.perf_counter(), "data"
        batch = next(stream)
        waited, beat.phase = time.perf_counter() - began, "compute"

        deepspeed.set_lr(engine, schedule(step))
        losses = engine(batch, deepspeed.dropout_seed(cadence.seed, step, rank))
        total = torch.stack(list(losses.values())).sum()
        stop, values = agree(interrupted(), losses)
        if not all(map(math.isfinite, values.values())):
            return Outcome(step, "nonfinite", f"step {step + 1}: {values}; samples {', '.join(culprits(losses, batch))}")
        engine.backward(total)
        engine.step()

        done, seconds = step + 1, time.perf_counter() - began
        beat.stepped(done, seconds)
        journal.write(
            "step",
            step=done,
            epoch=step // cadence.steps_per_epoch,
            loss=sum(values.values()),
            losses=values,
            lr=schedule(step),
            step_ms=round(seconds * 1e3, 3),
            data_wait_ms=round(waited * 1e3, 3),
            samples_per_s=round(cadence.batch_size / seconds, 3),
            equal_captions=equal_captions(step),
        )
        if stop:
            save(done)  # at once: an evaluation that is due now is made up for by the next attempt
            return Outcome(done, "interrupted", "a signal asked to stop")
        last = done == schedule.steps
        best = cadence.evaluates(done, schedule.steps) and evaluate(done)
        if best or last or done == cadence.stop_after or (cadence.save_every and done % cadence.save_every == 0):
            save(done)
    return Outcome(schedule.steps, "finished")


@torch.no_grad()
def agree(stop: bool, losses: dict[str, Tensor]) -> tuple[bool, dict[str, float]]:
    """Whether any rank wants to stop, and the losses' means over the ranks: not finite as soon as one rank's is not. One exchange."""
    shared = torch.stack([loss.detach().double() for loss in losses.values()] or [torch.zeros(())])
    shared = torch.cat([shared.new_tensor([float(stop)]), shared])
    dist.all_reduce(shared)
    flag, *means = (shared / dist.get_world_size()).tolist()
    return flag > 0, dict(zip(losses, means))


def culprits(losses: dict[str, Tensor], batch: Batch) -> list[str]:
    """Keys of all ranks' samples whose joints or text are not finite; where none is, of the ranks whose own losses are not."""
    fine = torch.isfinite(batch.joints.flatten(1)).all(1)
    if batch.text is not None:
        fine &= torch.isfinite(batch.text.flatten(1)).all(1)
    broken = [key for key, whole in zip(batch.keys, fine.tolist()) if not whole]
    suspect = [] if all(bool(torch.isfinite(loss)) for loss in losses.values()) else list(batch.keys)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (broken, suspect))
    return [key for keys, _ in gathered for key in keys] or [key for _, keys in gathered for key in keys]
