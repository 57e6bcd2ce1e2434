"""What a finished run thinks of its own captions: a score for each training clip, and whether the run uses captions at all.

A score is worth something only where text_reliance is not about 0: a network that ignores its captions ranks them by chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acsar import draws, probes
from acsar.ac_sar import ACSAR
from acsar.agreement import agreement, reliance_by_sample
from acsar.types import Batch
from jobs import environment, targets, weights
from jobs.batches import choose, to_batch
from jobs.features import BATCH
from jobs.run_folder import RunFolder, read_json
from shards.errors import InputError
from shards.stream import PackedSet

LEAST_SHARE = 0.01  # of ln(samples): below it text_reliance is "about 0"; the demo's is (docs/log.md)
EXCHANGES = 20  # permutations of the captions whose mean text_reliance is here
SUBJECTS = 5  # fewer of them are too few to draw from: the interval is then over samples


@dataclass(frozen=True)
class Reliance:
    """text_reliance of one stream on samples never trained on, in nats, with its 95 % interval; share: of ln(samples)."""

    stream: str
    value: float
    low: float
    high: float
    share: float
    samples: int
    over: str  # what the interval was drawn over: subjects, samples

    @property
    def relies(self) -> bool:
        """The captions are used: the interval lies above 0 and the value is no trifle."""
        return self.low > 0 and self.share >= LEAST_SHARE

    def words(self) -> str:
        """The measurement in one line."""
        span = f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.stream}: text_reliance {span}, {self.share:.1%} of ln({self.samples}), interval over {self.over}"


@dataclass(frozen=True)
class Judgement:
    """scores by training key, the mean over the streams that rely on captions; one-caption clips and clips without caption have none."""

    packed: PackedSet
    reliance: list[Reliance]
    scores: dict[str, float]

    def worst(self, count: int) -> list[str]:
        """Keys of the lowest scores, the lowest first."""
        return sorted(self.scores, key=lambda key: (self.scores[key], key))[:count]


def judge(run: Path, streams: Sequence[str] = (), data: Path | None = None) -> Judgement:
    """Score the training captions of RUNS/NAME by its finished streams (default: all that it was started with).

    Raises InputError where a stream has not finished or has no captions, and, before anything is scored, where no stream relies on
    captions: the line says the measurements and the threshold."""
    names = list(streams) or list(targets.streams_of(run))
    configs = {name: targets.finished(run, name) for name in names}
    first = configs[names[0]]
    packed = targets.open_set(data or Path(first["job"]["data"]), first["facts"]["content_id"], run)
    methods = {name: weights.load_whole(RunFolder(run / name)) for name in names}
    device = environment.device()
    job, facts = first["job"], first["facts"]
    parts = choose(packed, facts["protocol"], job["seed"], job["batch_size"] if job["aside"] is None else job["aside"])
    aside, keys = _captioned(packed, parts.aside), _captioned(packed, parts.keys)
    if len(aside) < 2:
        raise InputError(f"{run} kept no captioned clips out of training (--aside {job['aside']}): whether it uses captions cannot be said")
    subjects = {record.key: record.subject for record in packed.samples}
    reliance = [_reliance(name, method.to(device), packed, aside, subjects, job["seed"], device) for name, method in methods.items()]
    if not any(found.relies for found in reliance):
        told = "; ".join(found.words() for found in reliance)
        raise InputError(
            f"{run} does not use its captions, so what it thinks of them is chance ({told}; needed: an interval above 0 and "
            f"{LEAST_SHARE:.0%} of ln(samples)); pretrain longer, with a larger --method.weight or other captions"
        )
    used = [found.stream for found in reliance if found.relies]
    scores = torch.stack([_scores(methods[name], packed, keys, job["seed"], device) for name in used]).mean(0)
    return Judgement(packed, reliance, dict(zip(keys, scores.tolist())))


def protocol_of(run: Path) -> str:
    """The protocol that a run was trained by."""
    return str(read_json(RunFolder(run / targets.streams_in(run)[0]).config)["facts"]["protocol"])


def _captioned(packed: PackedSet, keys: Sequence[str]) -> list[str]:
    """Those of the keys that have a caption."""
    return [key for key in keys if packed.samples[packed.index[key]].text is not None]


def _reliance(
    stream: str, method: ACSAR, packed: PackedSet, keys: Sequence[str], subject: dict[str, int], seed: int, device: torch.device
) -> Reliance:
    z_g, captions, text_id = _told(method, packed, keys, seed, device)
    ids = torch.tensor([draws.key_id(key) for key in keys], dtype=torch.int64)
    drawn = torch.stack([draws.base(seed, epoch, ids) for epoch in range(EXCHANGES)]).to(device)
    values = reliance_by_sample(method, z_g, captions, text_id, drawn)
    compared = ~values.isnan()
    values, who = values[compared], torch.tensor([subject[key] for key in keys])[compared]
    if not len(values):
        raise InputError(f"the {len(keys)} clips kept out of training have one caption between them: text_reliance cannot be measured")
    groups = who if len(who.unique()) >= SUBJECTS else None  # type: ignore[no-untyped-call]
    low, high = probes.interval(values, groups, seed=seed)
    mean, n = float(values.mean()), len(values)
    return Reliance(stream, mean, low, high, mean / math.log(n), n, "samples" if groups is None else "subjects")


def _scores(method: ACSAR, packed: PackedSet, keys: Sequence[str], seed: int, device: torch.device) -> Tensor:
    """[N] agreement of each key's caption, on the CPU."""
    z_g, captions, text_id = _told(method, packed, keys, seed, device)
    _, own = text_id.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    first = torch.full((int(own.max()) + 1,), len(own), device=device).scatter_reduce(0, own, torch.arange(len(own), device=device), "amin")
    return agreement(method.text, z_g, captions[first], own).cpu()


def _told(method: ACSAR, packed: PackedSet, keys: Sequence[str], seed: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """z_g [N,out], the embedded captions [N,out] and text_id [N] of some samples."""
    z, embedded, ids = [], [], []
    for start in range(0, len(keys), BATCH):
        batch: Batch = to_batch(packed.load(keys[start : start + BATCH]), seed, 0).to(device)
        assert batch.text is not None and batch.text_id is not None
        z.append(method.project(batch.joints, batch.frames)["g"])
        with torch.no_grad():
            embedded.append(method.text.embed(batch.text, batch.text_tokens))
        ids.append(batch.text_id)
    return torch.cat(z), torch.cat(embedded), torch.cat(ids)
