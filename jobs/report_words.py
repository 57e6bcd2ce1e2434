"""What the tables of a report say, in sentences: what beats what beyond its interval, what does not, and in what runs leave the paper."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from acsar import probes
from jobs import published, results
from jobs.report_tables import NAMES, Collection
from jobs.results import Reached, Right, Run, Setting
from jobs.tables import DASH, Cell, Row, Table, over_seeds
from jobs.verdicts import chosen_epoch, warnings

PAIRS = 4  # methods of which each is compared with each; of more, each with the first
REFERENCES = {"random": "its random encoder", "raw": "the raw clips (no network)"}
BEATS, BELOW, SAME = "beats", "is beaten by", "does not differ beyond the interval from"

CHOICES = (
    ("stem", "one trunk", "two trunks", "shared for AC-SAR, split for SCD-Net"),
    ("flip", "flip", "left and right joints change places, coordinates keep their sign", "as the published code; mirror is an option"),
    ("learning rate", "linear decay, 0.001 at epoch 350 of 450", "x0.1 at 351 of 451", "one step at 350 of 450"),
    ("linear probe", "plateau 3, stop 5", "80 epochs, drops at 50 and 70", "both, by --schedule; who picks the epoch: held-aside subjects"),
    ("normalisation", DASH, "AGCN's", "AGCN's; others are options"),
    ("PKU-II x-sub", "5335 / 1610 clips", DASH, "5339 / 1613 by names; which seven fall out, the paper does not say"),
    ("detector, captioner", "YOLOv5-m v7.0, a 7B Ovis", DASH, "yolov5mu, Ovis2-8B"),
)
"""(point, paper, published code of SCD-Net, here): where paper and code disagree, or the paper is silent."""


@dataclass(frozen=True)
class Difference:
    """One method minus another, or minus a reference point, in the linear probe of one stream or fusion."""

    first: str
    second: str
    streams: str
    cell: Cell  # points; over seeds
    verdict: str


def differences(runs: Collection, setting: Setting) -> list[Difference]:
    """Each method against its reference points, then method against method."""
    return [*_from_references(runs, setting), *_from_each_other(runs, setting)]


def verdicts(found: Sequence[Difference]) -> list[str]:
    """A sentence per pair: on which streams the first beats the second, is below it, or neither."""
    pairs: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in found:
        pairs.setdefault((one.first, one.second), {}).setdefault(one.verdict, []).append(one.streams)
    lines = []
    for (first, second), told in pairs.items():
        parts = [f"{verdict} {second if place == 0 else 'it'} on {', '.join(on)}" for place, (verdict, on) in enumerate(told.items())]
        lines.append(f"{first} {'; '.join(parts)}.")
    return lines


def differences_table(setting: Setting, found: Sequence[Difference]) -> Table:
    """The numbers behind the sentences."""
    columns = [name for name in (*NAMES.values(), *published.SUBSETS) if any(one.streams == name for one in found)]
    pairs = dict.fromkeys((one.first, one.second) for one in found)
    cells = {(one.first, one.second, one.streams): one.cell for one in found}
    rows = [Row(f"minus {second}", [cells.get((first, second, name)) for name in columns], first) for first, second in pairs]
    notes = (
        "Between methods: paired bootstrap over test subjects of the seeds' mean on the same clips.",
        "Against reference points: the mean of the seeds' paired intervals.",
    )
    return Table(f"Differences in the linear probe, {setting.name}, points", columns, rows, notes, "", "method")


def _from_references(runs: Collection, setting: Setting) -> Iterator[Difference]:
    for label in runs.rows:
        seeds = runs.seeds(label, setting)
        streams = list(dict.fromkeys(stream for reached in seeds.values() for stream in reached.probes))
        for reference, name in REFERENCES.items():
            for stream in streams:
                told = {seed: reached.probes[stream]["differences"] for seed, reached in seeds.items() if stream in reached.probes}
                found = {seed: gaps[key] for seed, gaps in told.items() if (key := f"linear_over_{reference}") in gaps}
                if found:
                    cell = over_seeds({seed: gap["value"] for seed, gap in found.items()}, {s: gap["interval"] for s, gap in found.items()})
                    yield Difference(label, name, stream, cell, _settled([tuple(gap["interval"]) for gap in found.values()]))


def _settled(spans: Sequence[tuple[float, ...]]) -> str:
    """A verdict over seeds, each by its own interval."""
    above, below = sum(low > 0 for low, _ in spans), sum(high < 0 for _, high in spans)
    if above == len(spans):
        return BEATS
    if below == len(spans):
        return BELOW
    if above == below == 0:
        return SAME
    if above and below:
        return f"beats in {above} and is beaten in {below} of {len(spans)} seeds by"
    return f"beats in {above} of {len(spans)} seeds" if above else f"is beaten in {below} of {len(spans)} seeds by"


def _from_each_other(runs: Collection, setting: Setting) -> Iterator[Difference]:
    labels = [label for label in runs.rows if not runs.apart(label) and runs.seeds(label, setting)]
    pairs = list(combinations(labels, 2)) if len(labels) <= PAIRS else [(labels[0], label) for label in labels[1:]]
    for second, first in pairs:
        ours, theirs = runs.seeds(first, setting), runs.seeds(second, setting)
        for name in next(iter(ours.values())).answers:
            if all(name in reached.answers for reached in (*ours.values(), *theirs.values())):
                cell, verdict = _pair(_answers(ours, name), _answers(theirs, name))
                yield Difference(first, second, NAMES.get(name, name), cell, verdict)


def _answers(seeds: Mapping[int, Reached], name: str) -> dict[int, Right]:
    return {seed: reached.answers[name] for seed, reached in seeds.items()}


def _pair(ours: Mapping[int, Right], theirs: Mapping[int, Right]) -> tuple[Cell, str]:
    """Two methods on the same test clips: the difference of the shares of seeds that got a clip right, bootstrapped over subjects."""
    (a, subjects), (b, _) = results.mean_right(list(ours.values())), results.mean_right(list(theirs.values()))
    low, high = (100 * end for end in probes.interval(a - b, subjects if len(torch.unique(subjects)) > 1 else None))
    value = 100 * float((a - b).mean())
    common = sorted(set(ours) & set(theirs))
    gaps = {seed: 100 * float(ours[seed].right.double().mean() - theirs[seed].right.double().mean()) for seed in common}
    spread = over_seeds(gaps).deviation if gaps else None
    cell = Cell(value, spread, (low, high), tuple(common))
    if low <= 0 <= high:
        return cell, SAME
    if not all(gap * value > 0 for gap in gaps.values()):
        place = "ahead of" if value > 0 else "behind"
        return cell, f"is, beyond the interval but not in every seed, {place}"
    return cell, BEATS if value > 0 else BELOW


def cautions(runs: Collection) -> list[str]:
    """What a reader of the numbers must know: few test subjects, unknown ones, classes without training clips, marks; each said once."""
    found: dict[str, None] = {}
    names = {results.key_of(setting): setting.name for setting in runs.settings}
    for members in runs.rows.values():
        for reached in (reached for run in members for reached in run.reached):
            name = names[results.key_of(reached.setting)]
            for report in reached.probes.values():
                own = chosen_epoch("", report)  # a run's own number: the table of every run has it
                found |= dict.fromkeys(f"{name}{line}" for line in warnings("", report) if line not in own)
                if report.get("not_held_aside"):
                    line = "no training subjects could be held aside, so that the numbers are of the last epoch"
                    found |= {f"{name}: {line} ({report['not_held_aside']})": None}
            if (reached.weights, reached.rule) != ("paper", "softmax"):
                found |= {f"{name}: streams were fused by {reached.weights} weights, rule {reached.rule}": None}
    return [*found, *runs.twice()]


def deviations(runs: Collection) -> list[str]:
    """In what the runs leave the paper, a line each; what is a stand-in says so."""
    lines: dict[str, None] = {}
    everything = [run for members in runs.rows.values() for run in members]
    for run in everything:
        lines |= dict.fromkeys(_of_size(run))
        lines |= dict.fromkeys(_of_text(run))
        changed = [f"{_name(name)} {_value(own)} instead of {_value(usual)}" for name, (usual, own) in sorted(results.changes(run).items())]
        if changed:
            lines |= {f"{_where(run)} {run.recipe}: changed from the recipe: {', '.join(changed)}.": None}
    for setting in runs.settings:
        if not setting.comparable:
            lines |= {f"{setting.name} is none of the paper's columns: its numbers compare with nothing that was published.": None}
        if setting.schedule == "official":
            lines |= {"Linear probe by the official schedule of SCD-Net's code (80 epochs); the paper's own is --schedule paper.": None}
    return list(lines)


def _where(run: Run) -> str:
    return next((reached.setting.name for reached in run.reached), run.name) + ","


def _of_size(run: Run) -> Iterator[str]:
    full = {"AC-SAR": "acsar", "SCD-Net": "scdnet"}.get(run.method, "")
    own, paper = results.recipe_fields(run.recipe), results.recipe_fields(full)
    if not full or not own or run.recipe == full:
        return
    gaps = [f"{_name(name)} {_value(own[name])} instead of {_value(value)}" for name, value in paper.items() if own[name] != value]
    lengths = [f"{one['epochs']} epochs" if one["steps"] is None else f"{one['steps']} steps" for one in (own, paper)]
    gaps = [gap for gap in gaps if not gap.startswith(("epochs ", "steps "))] + [" instead of ".join(lengths)] * (lengths[0] != lengths[1])
    yield f"{run.recipe} is not the published size: {', '.join(gaps)}."


def _of_text(run: Run) -> Iterator[str]:
    provenance = str(run.facts.get("provenance", ""))
    if not provenance:
        return
    if provenance == "motion":
        yield "Captions were written from the skeletons by rules (provenance motion): no video seen, no vision-language model asked."
    elif provenance == "vlm":
        yield "Captions by a vision-language model: detector and captioner are not the paper's YOLOv5-m v7.0 and 7B Ovis."
    elif provenance == "import":
        yield "Captions were imported: who wrote them is not known here."
    elif run.apart:
        yield f"Captions of provenance {provenance} are a function of the class or of the motion program: supervision=text-from-label."
    if run.text.get("encoder") == "hash":
        yield "STAND-IN: text features are hashes of words (encoder hash), not CLIP's; no pretrained text model was used."


def _name(field: str) -> str:
    return field.removeprefix("method.").replace("_", " ")


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
