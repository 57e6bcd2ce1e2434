"""One training step of SCD-Net at the default size, its parts and its peak memory, against the published code.

python -m benchmarks.training_step [--peer PATH] [--batch 8] [--steps 5] [--threads 1]     PATH: a checkout of github.com/cong-wu/SCD-Net

Ours and theirs run in processes of their own, with the memory settings of a training rank, and take turns step by step. Parts are CPU
time, so that a busy machine disturbs little; the whole step is given as wall time too. The published code gets its two views ready made.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import IO, Any

import torch

import acsar.scdnet
from acsar.recipes import RECIPES, build
from acsar.types import Batch
from benchmarks.table import Row, show
from launch.pool import KEEP_MEMORY

PARTS = ("augment", "query forward", "key forward", "EMA", "backward", "optimiser")
VALID = 90
TURN = "step\n"


Step = Callable[[], None]


class Stopwatch:
    """CPU milliseconds spent in named calls."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)

    def watch(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its time added to `part`."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[part] += 1e3 * (time.process_time() - began)

        return watched


def measure(peer: Path | None = None, batch: int = 8, steps: int = 5, threads: int = 1) -> list[Row]:
    """Medians over `steps` steps after one to warm up."""
    if peer and not (peer / "scd" / "builder.py").is_file():
        raise SystemExit(f"{peer} is no checkout of SCD-Net: scd/builder.py is missing")
    sides = [_start(who, batch, threads) for who in ([None, peer] if peer else [None])]
    taken: list[list[dict[str, float]]] = [[] for _ in sides]
    for _ in range(steps + 1):
        for side, times in zip(sides, taken):
            times.append(_turn(side))
    for side in sides:
        side.communicate("")
    medians = [{name: median(step[name] for step in times[1:]) for name in times[0]} for times in taken]
    return [_row(name, *[side.get(name) for side in medians]) for name in medians[0]]


def _row(name: str, ours: float | None, peer: float | None = None) -> Row:
    assert ours is not None
    return Row(f"training step, {name}", ours, "MiB" if "memory" in name else "ms", peer or None, peer / ours if peer and ours else None)


def _start(peer: Path | None, batch: int, threads: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.training_step", "--turns", "--batch", str(batch), "--threads", str(threads)]
    environment = os.environ | KEEP_MEMORY | {"OMP_NUM_THREADS": str(threads)}
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        [*command, *(["--peer", str(peer.resolve())] if peer else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=root,
        text=True,
    )


def _turn(side: "subprocess.Popen[str]") -> dict[str, float]:
    stdin, stdout = _pipe(side.stdin), _pipe(side.stdout)
    stdin.write(TURN)
    stdin.flush()
    for line in stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"a measured process ended early (exit code {side.wait()})")


def _pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None
    return end


def _take_turns(step: Step, watch: Stopwatch) -> None:
    for _ in sys.stdin:
        watch.spent = dict.fromkeys(PARTS, 0.0)
        cpu, wall = time.process_time(), time.perf_counter()
        step()
        whole = {"wall ms": 1e3 * (time.perf_counter() - wall), "CPU ms": 1e3 * (time.process_time() - cpu)}
        parts = {f"{part} CPU ms": spent for part, spent in watch.spent.items()}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**whole, **parts, "peak memory MiB": memory}), flush=True)


def _ours(batch: int, watch: Stopwatch) -> Step:
    method = build("scdnet").train()
    optimiser = _optimiser(method)
    generator = torch.Generator().manual_seed(0)
    joints = torch.randn(batch, 3, VALID, 25, 2, generator=generator)
    clips = Batch(joints, torch.full((batch,), VALID), torch.arange(batch), [str(i) for i in range(batch)])
    for part, owner, name in (
        ("augment", method, "views"),
        ("query forward", method.query, "forward"),
        ("key forward", method.key, "forward"),
        ("EMA", acsar.scdnet, "ema_"),
    ):
        setattr(owner, name, watch.watch(part, getattr(owner, name)))

    def step() -> None:
        loss = torch.stack(list(method(clips).values())).sum()
        watch.watch("backward", loss.backward)()
        watch.watch("optimiser", optimiser.step)()
        optimiser.zero_grad()

    return step


def _published(peer: Path, batch: int, watch: Stopwatch) -> Step:
    sys.path.insert(0, str(peer))
    from scd.builder import SCD_Net

    # Its forward pass moves the targets to a GPU.
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    m = RECIPES["scdnet"].method
    sizes = {"hidden_size": m.width, "num_head": m.heads, "num_layer": 1, "num_class": m.out}
    model = SCD_Net(sizes, dim=m.out, K=m.queue, m=m.ema, T=m.tau).train()
    optimiser = _optimiser(model)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(batch, 3, 64, 25, 2, generator=generator) for _ in range(2))
    model.encoder_q.forward = watch.watch("query forward", model.encoder_q.forward)
    model.encoder_k.forward = watch.watch("key forward", model.encoder_k.forward)
    model._momentum_update_key_encoder = watch.watch("EMA", model._momentum_update_key_encoder)

    def step() -> None:
        out = model(first, second)
        loss = torch.stack([torch.nn.functional.cross_entropy(logits, target) for logits, target in zip(out[:4], out[4:])]).sum()
        watch.watch("backward", loss.backward)()
        watch.watch("optimiser", optimiser.step)()
        optimiser.zero_grad()

    return step


def _optimiser(model: torch.nn.Module) -> torch.optim.SGD:
    r = RECIPES["scdnet"]
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay)


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of SCD-Net to compare with")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", action="store_true", help="be one side: a step per line of input, its times as JSON")
    args = parser.parse_args()
    if args.turns:
        torch.set_num_threads(args.threads)
        watch = Stopwatch()
        _take_turns(_published(args.peer, args.batch, watch) if args.peer else _ours(args.batch, watch), watch)
        return
    show(measure(args.peer, args.batch, args.steps, args.threads))


if __name__ == "__main__":
    main()
