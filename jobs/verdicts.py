"""What the probes' numbers say, in words: does pretraining beat the same network untrained, and no network at all?

A difference is told as real only where its interval (paired bootstrap over test subjects) leaves out zero.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.run_folder import read_json

PROBES = ("linear", "knn1")
FEW = 6  # test subjects below which a bootstrap over them is not to be leaned on
NAMES = {"linear": "linear", "linear_last": "linear, last epoch", "knn1": "1-NN"}


def verdicts(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Plain sentences about reports {stream: what the probe wrote to STREAM.json}; two per stream and probe, linear probe first."""
    return [line for stream, report in reports.items() for line in (*_stream(stream, report), *warnings(stream, report))]


def reports(probe_folder: Path, streams: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{stream: STREAM.json} of RUNS/NAME/probe/PROTOCOL, for the streams that have been probed."""
    paths = {stream: probe_folder / f"{stream}.json" for stream in streams}
    return {stream: read_json(path) for stream, path in paths.items() if path.is_file()}


def _stream(stream: str, report: Mapping[str, Any]) -> list[str]:
    lines = []
    # one held-aside person chooses an epoch as well as they resemble the test part: the last epoch is told too
    alone = report.get("held_aside_subjects") == 1 and "linear_last_over_raw" in report["differences"]
    for probe in ("linear", "linear_last", "knn1") if alone else PROBES:
        own = report[probe]
        for reference, name in (("random", "its random encoder"), ("raw", "the raw floor")):
            low, high = report["differences"][f"{probe}_over_{reference}"]["interval"]
            told = compare(own, name, report[f"{reference}_{probe}"], low, high, report["interval_over"])
            lines.append(f"{stream}: pretrained {own:.1f} {told} ({NAMES[probe]})")
    return lines


def compare(own: float, name: str, other: float, low: float, high: float, over: str) -> str:
    """How an accuracy stands to another, with the interval [low, high] of their difference over "subjects" or "samples"; all in percent."""
    span = f"the interval [{low:+.1f}, {high:+.1f}]" + ("" if over == "subjects" else " over samples")
    if low > 0:
        return f"beats {name} {other:.1f} beyond {span}"
    place = "below" if own < other else "level with" if own == other else "above"
    inside = "beyond" if high < 0 else "within"
    return f"does not beat {name} {other:.1f}: it is {place} it, {inside} {span}"


def warnings(stream: str, report: Mapping[str, Any]) -> list[str]:
    """What a reader of these numbers must know."""
    lines = chosen_epoch(stream, report)
    if report.get("transfer"):
        lines.append(f"{stream}: transfer: pretrained on {report['transfer']}, probed on another set")
    if report.get("transfer_unchecked"):
        lines.append(f"{stream}: {report['transfer']} is no longer in its place, so nobody looked whether it has clips of this test part")
    if report["transductive"]:
        lines.append(f"{stream}: transductive: {_why_transductive(report)}")
    if report["supervision"] == "text-from-label":
        lines.append(f"{stream}: supervision=text-from-label: its texts tell the class, so it does not compare with methods without labels")
    if report["interval_over"] != "subjects":
        lines.append(f"{stream}: the test part has fewer than two known subjects: intervals are over samples and too narrow for new people")
    elif report["test_subjects"] < FEW:
        lines.append(f"{stream}: only {report['test_subjects']} test subjects: an interval over so few is rough, often too narrow")
    if report["untrained_classes"]:
        lines.append(f"{stream}: {report['untrained_classes']} test clips are of classes that have no training clip: all count as wrong")
    return lines


def _why_transductive(report: Mapping[str, Any]) -> str:
    if report.get("transfer"):
        return f"test clips are training clips of {report['transfer']}, which it was pretrained on"
    return f"pretrained by another protocol than {report['protocol']}, it may have seen test clips"


def chosen_epoch(stream: str, report: Mapping[str, Any]) -> list[str]:
    """Which epoch of the linear probe counts, and what the others would say; nothing of reports from before classifier A."""
    if "held_aside_subjects" not in report:
        return []
    last, best = (f"{report[f'linear_{which}']:.1f}" for which in ("last", "best_on_test"))
    also = f"its best epoch on the test part has {best}, which steered nothing"
    if not report["held_aside_subjects"]:
        return [f"{stream}: linear is the last epoch's: {report['not_held_aside']}, so nobody chose another; {also}"]
    people, aside = report["held_aside_subjects"], report["held_aside_linear"]
    chosen = f"epoch {report['epoch']} of {report['epochs']}, chosen on {people} held-aside training subject{'s' * (people > 1)}"
    rough = "; one person chooses roughly, so read the last epoch's number beside it" if people == 1 else ""
    return [f"{stream}: linear is {chosen} ({aside:.1f} there); the last epoch has {last}, {also}{rough}"]
