"""What the tables of a report say, in sentences: what beats what beyond its interval, what does not, and in what runs leave the paper."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from acsar import probes
from jobs import results
from jobs.fuse import LETTERS
from jobs.report_tables import Collection
from jobs.results import Reached, Right, Run, Setting
from jobs.tables import DASH
from jobs.verdicts import warnings

PAIRS = 4  # methods of which each is compared with each; of more, each with the first
REFERENCES = {"random": "its random encoder", "raw": "the raw clips (no network)"}
NAMES = {letter: stream for stream, letter in LETTERS.items()}

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


def verdicts(runs: Collection) -> dict[str, list[str]]:
    """{setting: sentences}: each method against the reference points, then method against method, the linear probe of every stream."""
    return {setting.name: [*_against_references(runs, setting), *_against_each_other(runs, setting)] for setting in runs.settings}


def _against_references(runs: Collection, setting: Setting) -> Iterator[str]:
    for label in runs.rows:
        seeds = runs.seeds(label, setting)
        streams = list(dict.fromkeys(stream for reached in seeds.values() for stream in reached.probes))
        for reference, name in REFERENCES.items():
            told: dict[str, list[str]] = {}
            for stream in streams:
                found = _differences(seeds, stream, f"linear_over_{reference}")
                if found:
                    verdict, numbers = _seen(found)
                    told.setdefault(verdict, []).append(f"{stream} {numbers}")
            if told:
                yield f"{label} {'; it '.join(f'{verdict} {name}: {_listed(places)}' for verdict, places in told.items())}."


def _differences(seeds: Mapping[int, Reached], stream: str, name: str) -> list[tuple[float, float, float]]:
    """(value, low, high) of each seed."""
    reports = [reached.probes[stream] for reached in seeds.values() if stream in reached.probes]
    found = [report["differences"][name] for report in reports if name in report.get("differences", {})]
    return [(one["value"], *one["interval"]) for one in found]


def _seen(found: Sequence[tuple[float, float, float]]) -> tuple[str, str]:
    """A verdict over seeds, each by its own interval; and the differences."""
    above, below = sum(low > 0 for _, low, _ in found), sum(high < 0 for _, _, high in found)
    numbers = f"({', '.join(f'{value:+.1f}' for value, _, _ in found)})"
    if above == len(found):
        return "beats", numbers
    if below == len(found):
        return "is below", numbers
    if above == below == 0:
        return "does not differ from", numbers
    told = [f"above in {above}"] * (above > 0) + [f"below in {below}"] * (below > 0)
    return "is not settled against", f"{numbers[:-1]}; beyond the interval {' and '.join(told)} of {len(found)} seeds)"


def _against_each_other(runs: Collection, setting: Setting) -> Iterator[str]:
    labels = [label for label in runs.rows if not runs.apart(label) and runs.seeds(label, setting)]
    pairs = list(combinations(labels, 2)) if len(labels) <= PAIRS else [(labels[0], label) for label in labels[1:]]
    for first, second in pairs:
        ours, theirs = runs.seeds(second, setting), runs.seeds(first, setting)
        both = (*ours.values(), *theirs.values())
        told: dict[str, list[str]] = {}
        for name in next(iter(ours.values())).answers:
            if all(name in reached.answers for reached in both):
                verdict, numbers = _pair(_answers(ours, name), _answers(theirs, name))
                told.setdefault(verdict, []).append(f"{NAMES.get(name, name)} {numbers}")
        if told:
            yield f"{second} {'; it '.join(f'{verdict} {first}: {_listed(places)}' for verdict, places in told.items())}."


def _answers(seeds: Mapping[int, Reached], name: str) -> dict[int, Right]:
    return {seed: reached.answers[name] for seed, reached in seeds.items()}


def _pair(ours: Mapping[int, Right], theirs: Mapping[int, Right]) -> tuple[str, str]:
    """Two methods on the same test clips: the difference of the shares of seeds that got a clip right, bootstrapped over subjects."""
    (a, subjects), (b, _) = results.mean_right(list(ours.values())), results.mean_right(list(theirs.values()))
    low, high = (100 * end for end in probes.interval(a - b, subjects if len(torch.unique(subjects)) > 1 else None))
    value = 100 * float((a - b).mean())
    common = sorted(set(ours) & set(theirs))
    gaps = [100 * float(ours[seed].right.double().mean() - theirs[seed].right.double().mean()) for seed in common]
    seeds = f"by seed {', '.join(f'{gap:+.1f}' for gap in gaps)}" if len(gaps) > 1 else "one seed"
    numbers = f"{value:+.1f} [{low:+.1f}, {high:+.1f}] ({seeds})"
    if low <= 0 <= high:
        return "does not differ beyond the interval from", numbers
    if not all(gap * value > 0 for gap in gaps):
        return "is not settled against", f"{numbers}, beyond the interval over test subjects but not in every seed"
    return ("beats" if value > 0 else "is beaten by"), numbers


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)


def cautions(runs: Collection) -> list[str]:
    """What a reader of the numbers must know: few test subjects, unknown ones, classes without training clips, marks; each said once."""
    found: dict[str, None] = {}
    for members in runs.rows.values():
        for reached in (reached for run in members for reached in run.reached):
            for report in reached.probes.values():
                found |= dict.fromkeys(f"{reached.setting.name}{line}" for line in warnings("", report))
                if not report.get("held_aside_subjects", True):
                    line = "no training subject could be held aside, so that the number is of the last epoch"
                    found |= {f"{reached.setting.name}: {line}": None}
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
