"""Linear probe and 1-NN of one feature set of NTU-60's size, and features extracted once against a forward pass in every epoch.

python -m benchmarks.probing [--peer PATH] [--threads 2] [--clips 48] [--epochs 2] [--share 1.0]   PATH: a checkout of
github.com/cong-wu/SCD-Net

The set is made by a generator (56 578 x 4 096, 60 classes, 40 091 rows to train on), written as a file of features and mapped from it by
processes of their own, whose largest memory is told. `--share 0.1` takes a tenth of the rows. The published protocol is really run for
`--epochs` of its 80 epochs, on `--clips` clips, with the published encoder where there is a checkout and ours where not, with the same
weights; what 80 epochs of NTU-60 take is that time multiplied.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from acsar import probes
from acsar.dense import fastest
from acsar.interop import save_scdnet
from acsar.nearest import nearest
from acsar.probes import ProbeSchedule
from acsar.recipes import RECIPES, build
from benchmarks.table import Row, show
from jobs import features

TRAIN, TEST, SIZE, CLASSES = 40_091, 16_487, 4096, 60
LATENT, SPREAD = 128, 0.42  # features are a rectified random mixture of so many numbers; of their variance, how much the class explains
SUBJECTS = 20  # of the training part; two of them are held aside
BLOCK = 2048
PARTS = ("official", "paper", "nearest", "float32")
FORWARD = 16  # clips that pass through an encoder at once


class Cost(NamedTuple):
    """Wall and processor seconds."""

    wall: float
    cpu: float


def measure(peer: Path | None = None, threads: int = 2, clips: int = 48, epochs: int = 2, share: float = 1.0) -> list[Row]:
    """Rows of both parts. Raises SystemExit where PATH is no checkout."""
    if peer and not (peer / "scd" / "scd_encoder.py").is_file():
        raise SystemExit(f"{peer} is no checkout of SCD-Net: scd/scd_encoder.py is missing")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npz"
        count = int(share * TRAIN), int(share * TEST)
        features.write(path, [f"K{row:06d}" for row in range(sum(count))], {}, generated(sum(count)))
        found = {part: _child(part, path, threads, count) for part in PARTS}
    rows = whole_set(found, threads, count)
    return rows + forward_passes(peer, clips, epochs, found["official"]["cpu"])


def generated(rows: int) -> Iterator[Tensor]:
    """Blocks of feature rows [b,D]: the class's centre and noise, mixed into D directions, moved and rectified."""
    generator = torch.Generator().manual_seed(0)
    centres, mixture = torch.randn(CLASSES, LATENT, generator=generator) * SPREAD, torch.randn(LATENT, SIZE, generator=generator)
    shift, truth = (1 + torch.randn(SIZE, generator=generator)) / 2, labels(rows)
    for start in range(0, rows, BLOCK):
        y = truth[start : start + BLOCK]
        yield ((centres[y] + torch.randn(len(y), LATENT, generator=generator)) @ mixture / LATENT**0.5 + shift).clamp_min(0)


def labels(rows: int) -> Tensor:
    """A class for every row."""
    return torch.randint(CLASSES, (rows,), generator=torch.Generator().manual_seed(1))


def whole_set(found: dict[str, dict[str, Any]], threads: int, count: tuple[int, int]) -> list[Row]:
    """What the processes said, as rows."""
    rows, size = [], f"{sum(count)} x {SIZE}, {threads} threads"
    for name in ("official", "paper"):
        part = found[name]
        told = f"linear probe, {name}, A and B, {size}"
        rows += [
            Row(told, part["wall"], "s"),
            Row(f"  its processor time ({part['epochs']} epochs, {part['right']:.1f} % right)", part["cpu"], "s"),
        ]
    ours, plain = found["nearest"], found["float32"]
    rows.append(Row(f"1-NN, {size} (peer: all products in float32)", ours["wall"], "s", plain["wall"], plain["wall"] / ours["wall"]))
    rows.append(Row(f"  its processor time ({ours['right']:.1f} % right)", ours["cpu"], "s", plain["cpu"], plain["cpu"] / ours["cpu"]))
    other = sum(a != b for a, b in zip(ours["answer"], plain["answer"]))
    rows.append(Row("  queries that plain float32 answers by another row", float(other), "of " + str(count[1])))
    rows.append(Row("linear probe, official, and 1-NN together", found["official"]["wall"] + ours["wall"], "s"))
    return [*rows, Row("  largest memory of a process", max(part["memory"] for part in found.values()), "MiB")]


def _child(part: str, path: Path, threads: int, count: tuple[int, int]) -> dict[str, Any]:
    """What one process reports of its part: times, largest memory, accuracy."""
    command = [sys.executable, "-m", "benchmarks.probing", "--part", part, "--features", str(path), "--rows", *map(str, count)]
    bound = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "OMP_WAIT_POLICY": "passive"}  # so that other programs disturb less
    environment = os.environ | bound | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def report(part: str, path: Path, train: int, test: int) -> dict[str, Any]:
    """Times, memory and accuracy of one part, in this process."""
    values, truth = features.read(path).values, labels(train + test)
    x, y, queries, asked = values[:train], truth[:train], values[train:], truth[train:]
    said: dict[str, Any] = {}
    with_course = {"official": probes.official("ntu60"), "paper": probes.paper("ntu60")}

    def work() -> None:
        if part in with_course:
            aside = torch.arange(train) % SUBJECTS < 2
            course, _ = probes.course(x, y, aside, CLASSES, with_course[part])
            result = probes.linear_probe(x, y, queries, CLASSES, with_course[part], course=course, test_y=asked)
            said.update(epochs=len(course.rates), right=100 * probes.top_k(result.scores, asked))
        else:
            rows = nearest(x, queries) if part == "nearest" else all_products(x, queries)
            said.update(right=100 * float((y[rows] == asked).double().mean()), answer=rows.tolist())

    cost = timed(work)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**said, "wall": cost.wall, "cpu": cost.cpu, "memory": memory}


def all_products(gallery: Tensor, queries: Tensor) -> Tensor:
    """The plain way to the nearest rows: every product in float32, the largest wins."""
    unit = nn.functional.normalize
    best = torch.full((len(queries),), -torch.inf)
    index = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(gallery), BLOCK):
        block = unit(gallery[start : start + BLOCK])
        for q in range(0, len(queries), BLOCK):
            value, where = fastest(unit(queries[q : q + BLOCK]), block.T).max(1)
            nearer = value > best[q : q + BLOCK]
            best[q : q + BLOCK] = torch.where(nearer, value, best[q : q + BLOCK])
            index[q : q + BLOCK] = torch.where(nearer, where + start, index[q : q + BLOCK])
    return index


def forward_passes(peer: Path | None, clips: int, epochs: int, probe_seconds: float) -> list[Row]:
    """Features once and a linear probe on them, against an encoder that runs in every epoch; processor time of one thread."""
    torch.set_num_threads(1)
    method = build("scdnet").eval()
    joints = torch.randn(clips, 3, 64, 25, 2, generator=torch.Generator().manual_seed(2))
    truth, train = torch.arange(clips) % 4, 2 * clips // 3
    schedule = ProbeSchedule(batch=FORWARD, epochs=epochs)
    kept: list[Tensor] = []
    once = timed(lambda: kept.append(torch.cat([method.encode(some) for some in joints.split(FORWARD)])))
    x = kept[0]
    answers: list[Tensor] = []
    probe = timed(
        lambda: answers.append(probes.linear_probe(x[:train], truth[:train], x[train:], 4, schedule, test_y=truth[train:]).scores)
    )
    network = published(peer, save_scdnet(method)) if peer else Frozen(method.encode)
    again = timed(lambda: answers.append(every_epoch(network, joints, truth, train, schedule)))
    ours, theirs = answers
    off = float((ours - theirs).abs().max() / theirs.abs().max())
    agree = 100 * float((ours.argmax(1) == theirs.argmax(1)).double().mean())
    all_clips = (TRAIN + TEST) / clips / 3600
    hours, repeated = once.cpu * all_clips + probe_seconds / 3600, again.cpu * all_clips * 80 / epochs
    who = "the published code" if peer else "our encoder"
    return [
        Row(
            f"{epochs} epochs of {clips} clips (peer: {who} in every epoch)",
            once.cpu + probe.cpu,
            "CPU s",
            again.cpu,
            again.cpu / (once.cpu + probe.cpu),
        ),
        Row("  test clips that get the same class", agree, "%"),
        Row("  largest difference of a logit, of the largest", off, ""),
        Row("80 epochs of NTU-60, from that (peer: likewise)", hours, "CPU hours", repeated, repeated / hours),
    ]


class Frozen(nn.Module):
    """An encoder and a linear layer, as the published code trains them, around our encoder."""

    def __init__(self, encode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encode = encode
        self.fc = nn.Linear(SIZE, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of clips [B,3,64,V,M]."""
        return self.fc(self.encode(x))  # type: ignore[no-any-return]


def published(peer: Path, weights: dict[str, Tensor]) -> nn.Module:
    """The published network for linear evaluation, with our encoder's weights, all frozen but its classifier."""
    sys.path.insert(0, str(peer))
    from scd.scd_encoder import DownstreamEncoder

    m = RECIPES["scdnet"].method
    network: nn.Module = DownstreamEncoder(hidden_size=m.width, num_head=m.heads, num_layer=1, num_class=4)
    network.load_state_dict({name: value for name, value in weights.items() if name.startswith("encoder.")}, strict=False)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name.startswith("fc.")
    return network


def every_epoch(network: nn.Module, joints: Tensor, truth: Tensor, train: int, schedule: ProbeSchedule) -> Tensor:
    """Test logits after linear evaluation as published: evaluation mode, training and test clips through the encoder in every epoch.

    First weights and the order of the clips are those of `probes.linear_probe`."""
    fc = network.fc
    assert isinstance(fc, nn.Linear)
    with torch.no_grad():
        fc.weight.copy_(torch.randn(fc.weight.shape, generator=probes._generator(0, -1)) * schedule.init)
        fc.bias.zero_()
    optimiser = torch.optim.SGD(fc.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)
    network.eval()
    scores = torch.empty(0)
    for epoch in range(schedule.epochs):
        optimiser.param_groups[0]["lr"] = schedule.rate(epoch)
        for rows in torch.randperm(train, generator=probes._generator(0, epoch)).split(schedule.batch_of(train)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(joints[rows]), truth[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            scores = torch.cat([network(some) for some in joints[train:].split(FORWARD)])
    return scores


def timed(work: Callable[[], object]) -> Cost:
    """What the work costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="checkout of SCD-Net to compare with")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--features", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(report(args.part, args.features, *args.rows)))
        return
    show(measure(args.peer, args.threads, args.clips, args.epochs, args.share))


if __name__ == "__main__":
    main()
