"""What a job will cost, before anything is submitted: samples/s and efficiency on 1, 2, 4, 8 nodes, time, disk, and what to do.

    step = fixed + rows of a rank x per row + exchange
    exchange = 2 (N-1)/N x gradient bytes / link + (number of other exchanges) x latency x log2 N        N ranks

Numbers in order of trust: steps of earlier runs of the same method on the same device in RUNS; a short measurement on this machine
(`measured`); arithmetic (jobs/costs.py counts a step's operations and exchanges, RATES says what devices do). The three terms of the
arithmetic are scaled so that they fit what was measured; every row says which of the three its numbers rest on.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.costs import Costs, Rates, count, this_cpu
from jobs.pretrain import Plan, Pretrain
from jobs.timings import Timing, of_earlier_runs

NODES = (1, 2, 4, 8)
WORTH = 0.7  # of the nodes' speed that must arrive for more nodes to be recommended
NETWORK_GBIT = 100.0  # of a node, unless said otherwise
# Shares of the peak that such steps are assumed to reach: of bf16 and fp32 arithmetic, of the memory's bandwidth.
SHARE = (0.3, 0.5, 0.6)
# Dense peaks per GPU: bf16 and fp32 FLOP/s, memory bytes/s (data sheets). A V100 has no bf16.
PEAKS = {
    "H200": (989e12, 67e12, 4.8e12),
    "H100": (989e12, 67e12, 3.35e12),
    "A100": (312e12, 19.5e12, 1.6e12),
    "V100": (15.7e12, 15.7e12, 0.9e12),
}
UNKNOWN_GPU = "A100"
START = 6e-6  # seconds to start an operation on a GPU
LATENCY = {"gpu": 20e-6, "cpu": 200e-6}  # of an exchange between two ranks: NCCL, gloo
INSIDE = {"gpu": 200e9, "cpu": 2e9}  # bytes/s between the ranks of one node: NVLink, loopback
DISK = 0.25e9  # bytes/s of a save, its hashes included
RECORD_BYTES, FILES_OF_A_CHECKPOINT, OTHER_FILES = 500, 3, 50


@dataclass(frozen=True)
class DeviceGuess:
    """What a rank is expected to compute on."""

    name: str  # "cpu", or a text that names the GPU, such as "NVIDIA H100 80GB HBM3" or "gpu:a100:4"
    per_node: int = 1  # ranks of a node
    threads: int = 1  # of each rank, on CPUs

    @property
    def kind(self) -> str:
        return "cpu" if self.name == "cpu" else "gpu"

    @property
    def known(self) -> str:
        """The GPU in PEAKS that it is taken for."""
        return _listed(self.name) or UNKNOWN_GPU

    def took(self, timing: Timing) -> bool:
        """Whether the steps were taken on such a device; a GPU without a name ("gpu") may be any."""
        if "cpu" in (self.name, timing.device):
            return self.name == timing.device and self.threads == timing.threads
        alike = self.name.upper() in timing.device.upper() or _listed(self.name) == _listed(timing.device) != ""
        return alike or self.name == "gpu"

    def describe(self) -> str:
        """In words, with what is assumed about it."""
        ranks = f"{self.per_node} rank{'s' if self.per_node > 1 else ''} per node"
        if self.kind == "cpu":
            return f"CPUs as here, {self.threads} for each rank alone, {ranks}"
        assumed = "" if _listed(self.name) else f" (taken for an {self.known})"
        bf16, fp32, memory = (f"{share:.0%}" for share in SHARE)
        return f"{self.name}{assumed}, {ranks}, at {bf16} of its bf16, {fp32} of its fp32 and {memory} of its memory's peak"


@dataclass(frozen=True)
class Row:
    """One number of nodes with one batch."""

    nodes: int
    batch: int
    rows: int  # of each rank
    step_ms: float | None  # None: it cannot be; `source` says why
    samples_per_s: float | None
    efficiency: float | None  # share of the nodes' speed that arrives, against one node with the recipe's batch
    seconds: float | None  # for the samples of the whole schedule, one stream
    source: str


@dataclass(frozen=True)
class Disk:
    """What the run will hold at most, all streams together."""

    checkpoint_bytes: int
    checkpoints: int  # of a stream at once: those kept and the one being written
    encoder_bytes: int
    journal_bytes: int
    total_bytes: int
    files: int
    free_bytes: int
    free_files: int | None  # None: the file system sets no limit


@dataclass(frozen=True)
class Forecast:
    """What `foretell` found; plain values only."""

    device: str
    network_gbit: float
    fixed_ms: float
    row_ms: float
    exchange_ms: float  # on the nodes asked for
    exchanges: int  # in a step, besides the gradients'
    gradient_bytes: int
    source: str
    rows: tuple[Row, ...]
    nodes: int  # asked for
    streams: int
    seconds: float  # of one stream on the nodes asked for: steps and saves
    recommendation: str
    disk: Disk


@dataclass(frozen=True)
class Model:
    """Seconds of a step by its three terms."""

    fixed: float
    per_row: float
    exchange: float  # factor on what the arithmetic says
    costs: Costs
    device: DeviceGuess
    network_gbit: float

    def step(self, nodes: int, world: int, rows: int) -> float:
        """One step of `world` ranks on `nodes` nodes with `rows` rows each."""
        return self.fixed + self.per_row * rows + self.exchange * exchange(self.costs, self.device.kind, nodes, world, self.network_gbit)


def foretell(job: Pretrain, plan: Plan, device: DeviceGuess, network_gbit: float, runs: Path, measured: Sequence[Timing] = ()) -> Forecast:
    """Predict the resolved job on `plan.world` ranks. `measured`: jobs.timings.measure's, where it was asked for."""
    bf16 = job.precision == "bf16" or (job.precision == "auto" and device.kind == "gpu" and device.known != "V100")
    costs = count(job, bf16)
    earlier = [timing for timing in of_earlier_runs(runs, job) if device.took(timing)]
    timings = earlier or [timing for timing in measured if device.took(timing)]
    model = fit(timings, costs, device, network_gbit, job.batch_size, rates(device))
    nodes = sorted({*NODES, job.nodes})
    asked = [(n, batch) for n in nodes for batch in dict.fromkeys((job.batch_size, job.batch_size * n))]
    base = model.step(1, device.per_node, max(1, job.batch_size // device.per_node)) / job.batch_size
    rows = tuple(row(model, n, batch, base, job, plan, timings) for n, batch in asked)
    step = model.step(job.nodes, plan.world, plan.rows)
    space = disk(job, plan, costs, runs)
    saves = plan.steps / job.save_every if job.save_every else 1
    return Forecast(
        device=device.describe(),
        network_gbit=network_gbit,
        fixed_ms=1e3 * model.fixed,
        row_ms=1e3 * model.per_row,
        exchange_ms=1e3 * (step - model.fixed - model.per_row * plan.rows),
        exchanges=costs.exchanges,
        gradient_bytes=costs.gradient_bytes,
        source=basis(timings),
        rows=rows,
        nodes=job.nodes,
        streams=len(job.streams),
        seconds=plan.steps * step + saves * space.checkpoint_bytes / DISK,
        recommendation=recommend(rows, job),
        disk=space,
    )


def exchange(costs: Costs, kind: str, nodes: int, world: int, network_gbit: float) -> float:
    """Seconds that the ranks of one step spend talking, by arithmetic; 0 for one rank. A ring's slowest link is the network of a node."""
    if world == 1:
        return 0.0
    link = INSIDE[kind] if nodes == 1 else min(INSIDE[kind], network_gbit * 1e9 / 8)
    latency = (costs.exchanges + 2) * LATENCY[kind] * math.log2(world)  # and those of the gradients and of the losses
    return latency + (2 * (world - 1) / world * costs.gradient_bytes + (world - 1) * costs.exchange_bytes) / link


def rates(device: DeviceGuess) -> Rates:
    """What the device does: measured for this machine's CPU, from the table for GPUs."""
    if device.kind == "cpu":
        return this_cpu(device.threads)
    bf16, fp32, memory = (share * peak for share, peak in zip(SHARE, PEAKS[device.known]))
    return Rates(bf16, fp32, memory, START)


def fit(timings: Sequence[Timing], costs: Costs, device: DeviceGuess, network_gbit: float, batch: int, speed: Rates) -> Model:
    """The arithmetic's three terms, each scaled to what was measured (least squares of the relative error).

    What the measurements do not tell apart is scaled alike; an exchange that was never measured stays as the arithmetic has it."""
    per_row = (costs.seconds(max(2, batch), speed) - costs.seconds(1, speed)) / (max(2, batch) - 1)
    terms = np.array([costs.seconds(1, speed) - per_row, per_row, 1.0])
    scale = np.ones(3)
    if timings:
        talks = [exchange(costs, device.kind, -(-t.world // device.per_node), t.world, network_gbit) for t in timings]
        parts = np.array([[1.0, t.rows, talk] for t, talk in zip(timings, talks)]) * terms
        took = np.array([t.ms / 1e3 for t in timings])
        alike = float(np.median(took / parts.sum(1)))
        start = np.array([alike, alike, alike if min(t.world for t in timings) > 1 else 1.0])
        scale = _nearest(parts / took[:, None], start)
    fixed, per_row, factor = scale * terms
    return Model(float(fixed), float(per_row), float(factor), costs, device, network_gbit)


def _nearest(parts: Any, start: Any, pull: float = 1e-3) -> Any:
    """Factors >= 0 with parts @ factors near 1; where parts leave them open, near `start`."""
    free, factors = list(range(len(start))), np.zeros(len(start))
    while free:
        rows = np.vstack([parts[:, free], pull * np.eye(len(free))])
        found = np.linalg.lstsq(rows, np.concatenate([np.ones(len(parts)), pull * start[free]]))[0]
        if (found >= 0).all():
            factors[free] = found
            break
        free.pop(int(found.argmin()))  # a term cannot cost less than nothing
    return factors


def row(model: Model, nodes: int, batch: int, base: float, job: Pretrain, plan: Plan, timings: Sequence[Timing]) -> Row:
    """One row of the table. `base`: seconds per sample on one node with the recipe's batch."""
    world = nodes * model.device.per_node
    why = ""
    if batch % world:
        why = f"{world} ranks do not divide a batch of {batch}"
    elif batch > plan.train:
        why = f"{plan.train} clips do not fill a batch"
    if why:
        return Row(nodes, batch, batch // world, None, None, None, None, why)
    seen = next((t for t in reversed(timings) if (t.world, t.rows) == (world, batch // world)), None)
    step = seen.ms / 1e3 if seen else model.step(nodes, world, batch // world)
    whole = plan.steps * job.batch_size * step / batch
    source = f"measured, {seen.steps} steps on {seen.date}" if seen else basis(timings, world)
    return Row(nodes, batch, batch // world, 1e3 * step, batch / step, base * batch / step / nodes, whole, source)


def basis(timings: Sequence[Timing], world: int = 1) -> str:
    """Where numbers come from that were not measured as they stand."""
    if not timings:
        return "arithmetic"
    steps = f"fit to {sum(t.steps for t in timings)} steps, latest {max(t.date for t in timings)}"
    talked = world == 1 or any(t.world > 1 for t in timings)
    return steps if talked else f"{steps}; exchange by arithmetic"


def recommend(rows: Sequence[Row], job: Pretrain) -> str:
    """What to do, in words."""
    known = {(r.nodes, r.batch): r for r in rows if r.efficiency is not None}
    same = [r for (_, batch), r in known.items() if batch == job.batch_size]
    good = [r for r in same if r.nodes == 1 or (r.efficiency or 0) >= WORTH]
    if not good:
        return f"the ranks of one node do not divide the batch of {job.batch_size}: ask for fewer GPUs per node, or another --batch-size"
    best = max(good, key=lambda r: r.nodes)
    words = "one node per stream (--nodes 1)" if best.nodes == 1 else f"{best.nodes} nodes per stream (--nodes {best.nodes})"
    more = min((r for r in same if r.nodes > best.nodes), key=lambda r: r.nodes, default=None)
    if more is not None:
        speed = more.nodes * (more.efficiency or 0)
        words += f": {more.nodes} nodes are {speed:.2g} x as fast as one at batch {job.batch_size} ({more.efficiency:.0%} efficiency)"
    scaled = [r for r in known.values() if r.batch > job.batch_size and (r.efficiency or 0) >= WORTH and r.nodes > best.nodes]
    if scaled:
        most = max(scaled, key=lambda r: r.nodes)
        words += (
            f"; if time matters more, --nodes {most.nodes} --batch-size {most.batch} --lr auto keeps {most.efficiency:.0%} "
            "(another optimisation than the published one, and recorded as that)"
        )
    return words


def disk(job: Pretrain, plan: Plan, costs: Costs, runs: Path) -> Disk:
    """What the run holds on disk at most, and what is free where RUNS is or will be."""
    there = next(folder for folder in (runs.resolve(), *runs.resolve().parents) if folder.is_dir())
    free = os.statvfs(there)
    multiples = plan.steps // job.keep_every if job.keep_every else 0
    checkpoints, streams = job.keep_last + multiples + job.keep_best + 1, len(job.streams)
    shards = plan.world if job.zero else 0
    journal = RECORD_BYTES * plan.steps
    return Disk(
        checkpoint_bytes=costs.state_bytes,
        checkpoints=checkpoints,
        encoder_bytes=costs.encoder_bytes,
        journal_bytes=journal,
        total_bytes=streams * (checkpoints * costs.state_bytes + costs.encoder_bytes + journal),
        files=streams * (checkpoints * (FILES_OF_A_CHECKPOINT + shards) + plan.world + OTHER_FILES),
        free_bytes=free.f_bavail * free.f_frsize,
        free_files=free.f_favail if free.f_files else None,
    )


def lines(forecast: Forecast) -> list[str]:
    """The forecast for people."""
    p, d = forecast, forecast.disk
    talk = f"{_size(p.gradient_bytes)} of gradients and {p.exchanges} small exchanges"
    told = [
        f"predicted for {p.device}; network {p.network_gbit:g} Gbit/s per node; {p.source}",
        f"  step = {_ms(p.fixed_ms)} + {_ms(p.row_ms)} x rows of a rank + exchange ({talk}: {_ms(p.exchange_ms)} on {p.nodes} node(s))",
        f"  {'nodes':>5} {'batch':>6} {'rows':>5} {'step':>9} {'samples/s':>10} {'efficiency':>10} {'schedule':>9}  from",
    ]
    for r in p.rows:
        numbers = f"{'-':>9} {'-':>10} {'-':>10} {'-':>9}"
        if r.step_ms is not None and r.seconds is not None:
            numbers = f"{_ms(r.step_ms):>9} {r.samples_per_s:>10.4g} {r.efficiency:>10.0%} {_time(r.seconds):>9}"
        told.append(f"  {r.nodes:>5} {r.batch:>6} {r.rows:>5} {numbers}  {r.source}")
    told.append(f"  recommended: {p.recommendation}")
    told.append(f"  time: {_time(p.seconds)} for each of {p.streams} stream(s) on {p.nodes} node(s), saves at {_size(DISK)}/s included")
    whole = f"{_size(d.total_bytes)} at most ({p.streams} x ({d.checkpoints} checkpoints of {_size(d.checkpoint_bytes)} + "
    whole += f"encoder {_size(d.encoder_bytes)} + journal {_size(d.journal_bytes)})), {d.files} files"
    told.append(f"  disk: {whole}; free: {_size(d.free_bytes)}" + ("" if d.free_files is None else f", {d.free_files} files"))
    if d.total_bytes > d.free_bytes or (d.free_files is not None and d.files > d.free_files):
        told.append("  there is not enough space: choose another --runs, or train the streams one after the other")
    if p.source == "arithmetic":
        told.append("  better numbers: --measure where the device is, or any run of this recipe on it below the same --runs")
    return told


def _listed(name: str) -> str:
    return next((gpu for gpu in PEAKS if gpu in name.upper()), "")


def _size(size: float) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, int(math.log(max(size, 1), 1000)))
    return f"{size / 1000**power:.3g} {units[power]}"


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _time(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min")) if seconds >= size), (1, "s"))
    return f"{seconds / size:.3g} {unit}"
