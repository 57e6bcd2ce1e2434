"""What finished runs reached, read from their files: one record per run and setting. Nothing is computed here that a file says."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acsar import probes
from acsar.ablations import TEXTS, rows_of
from acsar.ac_sar import ACSARConfig
from acsar.recipes import RECIPES
from acsar.streams import LETTERS, STREAMS
from jobs import configuration, journal, published, replay, weights
from jobs.codec import decode, encode
from jobs.fuse import WEIGHT
from jobs.run_folder import RunFolder, read_json
from jobs.scores import Scores, joined, read_scores
from shards import manifest
from shards.errors import InputError

# where a run lies, how often it says something, and by how many machines: no part of what the method is
BESIDE = {*replay.PLACES, *("seed", "method.stream", "evaluate_every", "nodes", "zero", "captions", "aside", "protocol", "epochs", "steps")}
CHANGES = {"epochs", "steps", "aside", "captions"}  # of them, what a recipe decides all the same
METHODS = {"ACSARConfig": published.OURS, "SCDNetConfig": published.BASELINE}


@dataclass(frozen=True)
class Setting:
    """What was asked of an encoder: which clips train and test the probe, by which schedule, and where the encoder came from."""

    benchmark: str
    data: str  # the packed set's folder
    protocol: str
    schedule: str  # official or paper
    transfer: str  # the set that the encoder was pretrained on; "" = this one
    transductive: bool
    task: str  # names test keys, their labels and the classes: equal tasks compare, whatever the captions were

    @property
    def name(self) -> str:
        """What a column is called."""
        name = published.NAMES.get(self.benchmark, self.data)
        words = [name, published.PROTOCOLS.get(self.protocol, self.protocol)]
        marks = [f"from {self.transfer}"] if self.transfer else []
        marks += ["paper schedule"] if self.schedule == "paper" else []
        marks += ["TRANSDUCTIVE"] if self.transductive else []
        return " ".join(words) + (f" ({', '.join(marks)})" if marks else "")

    @property
    def comparable(self) -> bool:
        """Do published numbers stand for this set and protocol?"""
        return (self.benchmark, self.protocol) in published.BENCHMARKS and not self.transfer and not self.transductive


@dataclass(frozen=True)
class Right:
    """Which test clips one answer got right: rows in the order of the sorted keys; subjects [n]."""

    right: Tensor
    subjects: Tensor


@dataclass(frozen=True)
class Reached:
    """What one run reached in one setting."""

    setting: Setting
    probes: Mapping[str, Mapping[str, Any]]  # stream -> STREAM.json
    fused: Mapping[str, Any]  # subset -> {"top1", "intervals"}; {} = not fused
    answers: Mapping[str, Right]  # "J", "B", "M" and, where fused, the widest subset
    weights: str = "paper"  # of the fusion: paper, held-aside or given
    rule: str = "softmax"  # or logits


@dataclass(frozen=True)
class Run:
    """One RUNS/NAME."""

    path: Path
    configs: Mapping[str, Mapping[str, Any]]  # finished stream -> config.json
    reached: Sequence[Reached] = ()
    semi: Sequence[Mapping[str, Any]] = ()  # semi/SETTING/STREAM.json, with "data", the packed set's folder
    finetuned: Sequence[Mapping[str, Any]] = ()  # finetune/TRIAL/STREAM/result.json, with "trial" and "data"
    lines: Sequence[str] = field(default=())  # what is not finished, not probed, or cannot be read

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Of its first stream; {} for weights that somebody published."""
        return next(iter(self.configs.values()), {})

    @property
    def facts(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.config.get("facts", {})
        return found

    @property
    def job(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.config.get("job", {})
        return found

    @property
    def seed(self) -> int:
        return int(self.job.get("seed", 0))

    @property
    def recipe(self) -> str:
        return str(self.job.get("recipe") or next((p["recipe"] for r in self.reached for p in r.probes.values() if p.get("recipe")), "?"))

    @property
    def method(self) -> str:
        """AC-SAR or SCD-Net, as the paper's tables say; "" for weights without a configuration."""
        return METHODS.get(str(self.job.get("method", {}).get("kind", "")), "")

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The job's fields by their flags' names."""
        return configuration.flat(self.job)

    @property
    def apart(self) -> bool:
        """Texts that tell the class were used: no comparison with methods without labels."""
        return self.facts.get("supervision") == "text-from-label"

    @cached_property
    def text(self) -> Mapping[str, Any]:
        """The manifest's entry on texts, {} where the run used none or its packed set lies elsewhere now."""
        if not self.facts.get("provenance"):
            return {}
        try:
            found = manifest.read(Path(self.job["data"]))
        except (InputError, OSError):
            return {}
        return found["text"] or {} if found["content_id"] == self.facts["content_id"] else {}

    @property
    def captions(self) -> str:
        """Provenance and text encoder of the captions that were used; "" = none were."""
        words = [str(self.facts.get("provenance", "")), str(self.text.get("encoder", ""))]
        return " ".join(word for word in words if word) if words[0] else ""


def read(path: Path) -> Run:
    """All that RUNS/NAME holds and that is whole. Streams that have not finished, or were never probed, are lines."""
    lines, configs = [], {}
    for stream in replay.streams(path):
        folder = RunFolder(path / stream)
        if folder.result.is_file() and folder.config.is_file():
            configs[stream] = read_json(folder.config)
        else:
            lines.append(_unfinished(path, stream))
    reached = []
    for probe in sorted((path / "probe").glob("*")):
        reports: dict[str, dict[str, Any]] = {}
        reports |= {stream: read_json(probe / f"{stream}.json") for stream in STREAMS if (probe / f"{stream}.json").is_file()}
        if reports:
            found, problems = _reached(path, probe, reports, configs)
            reached.append(found)
            lines += problems
    probed = {stream for one in reached for stream in one.probes}
    missing = [stream for stream in configs if stream not in probed]
    lines += [f"{path.name} {', '.join(missing)}: pretrained, not probed: python launch/probe.py --run {path}"] if missing else []
    classified = [(file.parent.name, read_json(file)) for file in sorted((path / "semi").glob("*/*.json")) if file.stem in STREAMS]
    semi = [{**found, "data": _data_name(found, name, configs, path)} for name, found in classified]
    trials = [(file, read_json(file)) for file in sorted((path / "finetune").glob("*/*/result.json"))]
    finished = [(file.parents[1].name, found) for file, found in trials if found.get("status") == "finished"]
    finetuned = [{**found, "trial": name, "data": _data_name(found, name, configs, path)} for name, found in finished]
    return Run(path, configs, reached, semi, [*finetuned, *_tuned_fusions(path, finetuned)], lines)


def _tuned_fusions(path: Path, finetuned: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The widest fusion of each trial (fuse/finetune-TRIAL.json), as a further stream of it; none that is older than its streams."""
    found = []
    for trial in dict.fromkeys(one["trial"] for one in finetuned):
        file, streams = path / "fuse" / f"finetune-{trial}.json", {one["stream"]: one for one in finetuned if one["trial"] == trial}
        document = read_json(file) if file.is_file() else {"subsets": {}, "encoders": {}}
        widest = max(document["subsets"], key=len, default="")
        known = {stream: one["encoder_sha256"] for stream, one in streams.items() if stream in document["encoders"]}
        if "+" in widest and known == document["encoders"]:
            numbers = document["subsets"][widest]
            one = {**next(iter(streams.values())), "stream": widest, "top1": numbers["top1"], "interval": numbers["intervals"]["top1"]}
            found.append(one)
    return found


def _unfinished(path: Path, stream: str) -> str:
    records = journal.read(path / stream)
    step = max((record["step"] for record in records if record["type"] == "step"), default=0)
    start = journal.last(records, "start")
    state = replay.course(path, stream).status.lower()
    place = f"step {step} of {start['steps']}" if start is not None else "not begun"
    return f"{path.name} {stream}: not finished ({state}, {place}): give its pretrain command again"


def _reached(
    path: Path, folder: Path, reports: dict[str, dict[str, Any]], configs: Mapping[str, Mapping[str, Any]]
) -> tuple[Reached, list[str]]:
    """One folder below probe/. Scores are only read where they are those of the reports."""
    lines = []
    scores: dict[str, Scores] = {}
    for stream, report in reports.items():
        result = RunFolder(path / stream).result
        if result.is_file() and read_json(result).get("encoder_sha256", report["encoder_sha256"]) != report["encoder_sha256"]:
            lines.append(f"{path.name} {stream}: {folder.name} was probed with an older encoder; probe again")
        if (file := folder / f"{stream}.scores.npz").is_file():
            scores[stream] = read_scores(file)
    first = next(iter(reports.values()))
    setting = Setting(
        benchmark=first["benchmark"],
        data=_data_name(first, folder.name, configs, path),
        protocol=first["protocol"],
        schedule=first.get("schedule", "official"),
        transfer=str(first.get("transfer") or ""),
        transductive=bool(first["transductive"]),
        task=_task(first, scores),
    )
    fused: Mapping[str, Any] = {}
    document: Mapping[str, Any] = {}
    answers: dict[str, Right] = {}
    if scores:
        scores = joined(scores)
        answers = {LETTERS[stream]: Right(probes.hits(one.scores, one.labels), one.subjects) for stream, one in scores.items()}
    file = path / "fuse" / f"{folder.name}.json"
    if file.is_file():
        document = read_json(file)
        if any(reports[stream]["encoder_sha256"] != sha for stream, sha in document["encoders"].items() if stream in reports):
            lines.append(f"{path.name}: {folder.name} was fused before it was probed again: python launch/fuse.py --run {path}")
        else:
            fused = document["subsets"]
            answers |= _fused(document, scores)
    how = (str(document.get("weights_from", "paper")), str(document.get("rule", "softmax")))
    return Reached(setting, reports, fused, answers, *how), lines


def _fused(document: Mapping[str, Any], scores: Mapping[str, Scores]) -> dict[str, Right]:
    """The widest subset, by the weights and the rule of the file."""
    widest = max(document["subsets"], key=len)
    names = [name for name in STREAMS if LETTERS[name] in widest.split("+")]
    if len(names) < 2 or not all(name in scores for name in names):
        return {}
    weights = document.get("weights", {}).get(widest) or [WEIGHT] * len(names)
    rule = "logits" if document.get("rule") == "logits" else "softmax"
    together = probes.fuse_scores([scores[name].scores for name in names], weights, rule)
    first = scores[names[0]]
    return {widest: Right(probes.hits(together, first.labels), first.subjects)}


def _data_name(report: Mapping[str, Any], setting: str, configs: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """The folder of the packed set that was probed: the run's own, or the one that a transfer's folder (jobs/settings.py) names."""
    if report.get("data"):
        return Path(str(report["data"])).name
    if setting.startswith("transfer-"):
        return setting.removeprefix("transfer-").removesuffix("-paper").removesuffix(f"-{report['protocol']}")
    own = next((config for config in configs.values() if config["facts"]["content_id"] == report["content_id"]), None)
    return Path(own["job"]["data"]).name if own is not None else path.name


def _task(report: Mapping[str, Any], scores: Mapping[str, Scores]) -> str:
    if not scores:
        return str(report["content_id"])
    one = next(iter(scores.values()))
    pairs = sorted(zip(one.keys, one.labels.tolist()))
    return hashlib.sha256(repr((pairs, one.classes, report["train"])).encode()).hexdigest()


def recipe_fields(recipe: str) -> dict[str, Any]:
    """A recipe's values by their flags' names; {} for one that is not known here."""
    if recipe not in RECIPES:
        return {}
    return configuration.flat({name: value for name, value in encode(RECIPES[recipe]).items() if name != "description"})


def changes(run: Run) -> dict[str, tuple[Any, Any]]:
    """{field: (the recipe's value, the run's)} where a run differs from its recipe."""
    usual = recipe_fields(run.recipe)
    own = {name: value for name, value in run.flat.items() if name in usual and (name not in BESIDE or name in CHANGES)}
    return {name: (usual[name], value) for name, value in own.items() if usual[name] != value}


def ablation_rows(run: Run) -> list[tuple[str, str]]:
    """(ablation, row) of the paper's ablations that a run stands for, by its method over the AC-SAR recipe of its size."""
    written = run.job.get("method", {})
    kind = weights.KINDS.get(str(written.get("kind", "")))
    recipe = run.recipe.replace("scdnet", "acsar")
    base = RECIPES[recipe].method if recipe in RECIPES else None
    if kind is None or not isinstance(base, ACSARConfig):
        return []
    try:
        method = decode(kind, dict(written))
    except InputError:  # written by a version with other fields
        return []
    texts = next((name for name in TEXTS if run.name.endswith(f"-{name}-s{run.seed}")), "word")  # as launch/sweep.py names runs
    # the queue's length follows the set, whatever the row
    return rows_of(method, replace(base, queue=method.queue), texts if kind is ACSARConfig else "")


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """{run name: the row that it stands in}: method, recipe, captions, and whatever else tells runs of one task and recipe apart.

    Runs that differ in the seed alone share a row; so do those of other sets, whatever was set there (a shorter queue on a small set)."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.recipe, run.captions), []).append(run)
    names = {}
    several = {recipe for recipe, _ in groups if len({captions for other, captions in groups if other == recipe}) > 1}
    for (recipe, captions), members in groups.items():
        telling = _telling(members)
        for run in members:
            words = [] if recipe in ("acsar", "scdnet") else [recipe]
            words += [f"captions {captions}"] if captions and (recipe in several or captions != "vlm clip") else []
            words += [f"{name.removeprefix('method.').replace('_', '-')} {_fact(run, name)}" for name in telling]
            words += ["supervision=text-from-label"] if run.apart else []
            head = run.method or run.name
            names[run.name] = f"{head} ({', '.join(words)})" if words else head
    return names


def _telling(runs: Sequence[Run]) -> list[str]:
    """The fields in which runs of one task differ, besides the seed."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        for task in {reached.setting.task for reached in run.reached}:
            tasks.setdefault(task, []).append(run)
    found: set[str] = set()
    for members in tasks.values():
        names = {name for run in members for name in run.flat if name not in BESIDE or name in CHANGES} | {"caption_version", "texts_of"}
        found |= {name for name in names if len({repr(_fact(run, name)) for run in members}) > 1}
    return sorted(found)


def _fact(run: Run, name: str) -> Any:
    if name == "texts_of":  # sets with the same clips and other captions
        return f"{Path(str(run.job['data'])).name} {run.facts['content_id'][:6]}" if run.captions else ""
    return run.facts.get(name, 1) if name == "caption_version" else run.flat.get(name)


def settings(runs: Iterable[Run]) -> list[Setting]:
    """The columns: one per task, schedule and origin of the encoder, published benchmarks first. Sets that hold the same test clips under
    several folder names (other captions) are one column, by the shortest name."""
    found: dict[tuple[Any, ...], Setting] = {}
    for setting in (reached.setting for run in runs for reached in run.reached):
        before = found.get(key_of(setting))
        if before is None or (len(setting.data), setting.data) < (len(before.data), before.data):
            found[key_of(setting)] = setting
    order = {column: place for place, column in enumerate(published.BENCHMARKS)}
    last = len(order)
    return sorted(
        found.values(),
        key=lambda s: (order.get((s.benchmark, s.protocol), last), s.transfer, s.transductive, s.data, s.protocol, s.schedule),
    )


def key_of(setting: Setting) -> tuple[Any, ...]:
    """What makes two settings one column."""
    return (setting.task, setting.protocol, setting.schedule, setting.transfer, setting.transductive)


def in_setting(run: Run, setting: Setting) -> Reached | None:
    """What the run reached there, None where it was not probed."""
    return next((reached for reached in run.reached if key_of(reached.setting) == key_of(setting)), None)


def mean_right(found: Sequence[Right]) -> tuple[Tensor, Tensor]:
    """Of several runs on the same test clips: the share of them that got each clip right [n], subjects [n]."""
    return torch.stack([one.right.double() for one in found]).mean(0), found[0].subjects
