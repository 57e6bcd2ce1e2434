"""Tables of finished runs in the layout of AC-SAR's tables 2 to 5, published numbers beside ours, reference points as rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from acsar.ablations import ABLATIONS
from acsar.streams import LETTERS, STREAMS
from jobs import published, results
from jobs.results import Reached, Run, Setting
from jobs.tables import Cell, Row, Table, over_seeds

PROBES = {"linear": "linear probe", "knn1": "1-NN"}
REFERENCES = "reference points"
APART = "supervision=text-from-label: texts tell the class; no comparison with the rows above"
PEERS = "published, not trained here"
INTERVAL = "Intervals: bootstrap over test subjects (over samples where fewer than two are known)."
NAMES = {letter: stream for stream, letter in LETTERS.items()}

# what one run's files say of a number: (value, interval), None where they say nothing
Look = Callable[[Reached], tuple[float, Sequence[float]] | None]


@dataclass(frozen=True)
class Collection:
    """The runs of a report: `rows` {label: its runs}, in the order of the rows, and the columns."""

    rows: Mapping[str, Sequence[Run]]
    settings: Sequence[Setting]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Collection":
        """Baselines first, then by name; runs marked text-from-label last."""
        names = results.labels(runs)
        order = sorted(runs, key=lambda run: (run.apart, run.method != published.BASELINE, names[run.name], run.seed, run.name))
        rows: dict[str, list[Run]] = {}
        for run in order:
            rows.setdefault(names[run.name], []).append(run)
        return cls(rows, results.settings(runs))

    def apart(self, label: str) -> bool:
        return self.rows[label][0].apart

    def seeds(self, label: str, setting: Setting) -> dict[int, Reached]:
        """{seed: what it reached there}; of two runs with one configuration and seed the first by name."""
        found: dict[int, Reached] = {}
        for run in self.rows[label]:
            reached = results.in_setting(run, setting)
            if reached is not None:
                found.setdefault(run.seed, reached)
        return found

    def cell(self, label: str, setting: Setting, look: Look, paper: float | None = None) -> Cell | None:
        """One row's number in one column."""
        found = {seed: value for seed, reached in self.seeds(label, setting).items() if (value := look(reached)) is not None}
        if not found:
            return None
        ends = {seed: span for seed, (_, span) in found.items() if len(span) == 2}
        return over_seeds({seed: value for seed, (value, _) in found.items()}, ends, paper)

    def twice(self) -> list[str]:
        """A line for each run that counts for nothing because another has its configuration and seed."""
        lines = []
        for label, runs in self.rows.items():
            for setting in self.settings:
                seen: dict[int, Run] = {}
                for run in runs:
                    if results.in_setting(run, setting) is not None:
                        first = seen.setdefault(run.seed, run)
                        if first is not run:
                            lines.append(f"{run.name} has the configuration and the seed of {first.name} ({label}): it is left out")
        return sorted(set(lines))


def probed(stream: str, name: str) -> Look:
    """A number of STREAM.json with its interval."""

    def look(reached: Reached) -> tuple[float, Sequence[float]] | None:
        report = reached.probes.get(stream)
        return None if report is None or report.get(name) is None else (report[name], report["intervals"].get(name, ()))

    return look


def subset(name: str) -> Look:
    """The linear probe of one stream, or of several fused: J, J+B, ..."""

    def look(reached: Reached) -> tuple[float, Sequence[float]] | None:
        if name in reached.fused:
            return reached.fused[name]["top1"], reached.fused[name]["intervals"]["top1"]
        return probed(NAMES[name], "linear")(reached) if name in NAMES else None

    return look


def streams_of(runs: Collection) -> list[str]:
    """The streams that were probed anywhere."""
    found = {stream for members in runs.rows.values() for run in members for reached in run.reached for stream in reached.probes}
    return [stream for stream in STREAMS if stream in found]


def tables(runs: Collection) -> dict[str, Table]:
    """{file name: table}, those that the runs have numbers for."""
    found: dict[str, Table] = {}
    streams = streams_of(runs)
    if streams:
        found[f"linear-{streams[0]}"] = one_stream(runs, streams[0], "linear")
        found |= {f"streams-{place + 1}": t for place, t in enumerate(fusions(runs)) if len(streams) > 1}
        if three := three_streams(runs):
            found["three-streams"] = three
        for stream in streams:
            found[f"last-{stream}"] = one_stream(runs, stream, "linear_last")
        for stream in streams:
            found[f"knn-{stream}"] = one_stream(runs, stream, "knn1")
    if semi := semi_supervised(runs):
        found["semi"] = semi
    if tuned := fine_tuned(runs):
        found["finetune"] = tuned
    return found | ablations(runs)


PROBES = {
    "linear": "Linear probe of frozen features",
    "linear_last": "Linear probe after its last epoch, where nobody chose one",
    "knn1": "1-NN by cosine of frozen features",
}


def one_stream(runs: Collection, stream: str, probe: str) -> Table:
    """Table 2's layout: methods by sets, one stream."""
    columns = runs.settings
    look = probed(stream, probe)
    own = [
        Row(label, [runs.cell(label, s, look, _paper(runs, label, s, LETTERS[stream]) if probe == "linear" else None) for s in columns])
        for label in runs.rows
        if not runs.apart(label)
    ]
    apart = [Row(label, [runs.cell(label, s, look) for s in columns], APART) for label in runs.rows if runs.apart(label)]
    peers = _peers(columns, published.SINGLE) if probe == "linear" and stream == "joint" else []
    rows = [*references(runs, stream, probe), *_there(own), *_there(apart), *peers]
    return _table(f"{PROBES[probe]}, {stream} stream, top-1 in %", runs, rows)


def references(runs: Collection, stream: str, probe: str) -> list[Row]:
    """No network at all, and the same network untrained: one row for the recipes whose untrained networks are the same."""
    raw = [_without_method(runs, s, probed(stream, f"raw_{probe}")) for s in runs.settings]
    rows = [Row("raw clips, no network", raw, REFERENCES)]
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for label in runs.rows:
        cells = tuple(runs.cell(label, s, probed(stream, f"random_{probe}")) for s in runs.settings)
        kinds.setdefault(cells, []).append(label)
    recipes = {cells: ", ".join(sorted({runs.rows[label][0].recipe for label in labels})) for cells, labels in kinds.items()}
    distinct = len(set(recipes.values())) == len(kinds)
    for cells, labels in kinds.items():
        whose = "" if len(kinds) == 1 else f" of {recipes[cells] if distinct else '; '.join(labels)}"
        rows.append(Row(f"random encoder{whose}", cells, REFERENCES))
    return _there(rows)


def fusions(runs: Collection) -> list[Table]:
    """Table 3's layout, a table per method: streams and their fusions by sets."""
    found = []
    for label in runs.rows:
        rows = [
            Row(name, [runs.cell(label, s, subset(name), _paper(runs, label, s, name)) for s in runs.settings])
            for name in published.SUBSETS
        ]
        if rows := _there(rows):
            found.append(_table(f"Linear probe by streams: {label}, top-1 in %", runs, rows))
    return found


def three_streams(runs: Collection) -> Table | None:
    """Table 4's layout: methods by sets, joint, bone and motion fused."""
    look = subset(published.THREE)
    rows = [
        Row(
            label,
            [runs.cell(label, s, look, _paper(runs, label, s, published.THREE)) for s in runs.settings],
            APART if runs.apart(label) else "",
        )
        for label in runs.rows
    ]
    if not (rows := _there(rows)):
        return None
    return _table("Linear probe, three streams fused, top-1 in %", runs, [*rows, *_peers(runs.settings, published.THREE)])


Place = tuple[str, str, str, str, str]  # what is one column of a table of labels: benchmark, protocol, set, draw or "", schedule or ""


def semi_supervised(runs: Collection) -> Table | None:
    """Table 5's layout: methods by sets and shares of the labels; the encoder is frozen."""
    members = [(label, run) for label, found in runs.rows.items() for run in found]
    columns = sorted({(_place(one), row["fraction"]) for _, run in members for one in run.semi for row in one["rows"]})
    if not columns:
        return None
    streams = [stream for stream in STREAMS if any(one["stream"] == stream for _, run in members for one in run.semi)]
    rows: list[Row] = []
    for kind in ("raw", "random", "top1"):
        for label in runs.rows:
            for stream in streams:
                cells = [_semi_cell(runs.rows[label], stream, place, fraction, kind) for place, fraction in columns]
                name = {"raw": "raw clips, no network", "random": f"random encoder of {label}", "top1": label}[kind]
                group = REFERENCES if kind != "top1" else APART if runs.apart(label) else ""
                row = Row(name if streams == ["joint"] else f"{name}, {stream}", cells, group)
                if kind != "raw" or row.name not in [other.name for other in rows]:  # the raw clips are the same for all methods
                    rows.append(row)
    for peer in published.SEMI:
        numbers = [published.semi(peer.name, place[0], place[1], fraction) for place, fraction in columns]
        rows.append(Row(peer.name, [None if number is None else Cell(number) for number in numbers], PEERS))
    names = [f"{_place_name(place)} {100 * fraction:g} %" for place, fraction in columns]
    notes = ["The labelled clips are the same for all rows. A number is the mean over a run's subsets, then over seeds.", INTERVAL]
    rows = _there(rows)
    return Table("Semi-supervised: share of the labels, frozen encoder, top-1 in %", names, rows, notes, _source(rows), "method")


def _place(one: Mapping[str, Any]) -> Place:
    schedule = "" if one.get("schedule", "paper") == "paper" else f"{one['schedule']} schedule"
    origin = f"from {one['transfer']}" if one.get("transfer") else "TRANSDUCTIVE" if one.get("transductive") else ""
    return (str(one.get("benchmark", "")), one["protocol"], one["data"], one.get("draw", ""), ", ".join(w for w in (schedule, origin) if w))


def _place_name(place: Place) -> str:
    benchmark, protocol, data, *rest = place
    words = f"{published.NAMES.get(benchmark, data)} {published.PROTOCOLS.get(protocol, protocol)}"
    return ", ".join([words, *(word for word in rest if word)])


def _semi_cell(members: Sequence[Run], stream: str, place: Place, fraction: float, kind: str) -> Cell | None:
    values: dict[int, float] = {}
    spans: dict[int, Sequence[float]] = {}
    for run in members:
        for row in (row for one in run.semi if (one["stream"], _place(one)) == (stream, place) for row in one["rows"]):
            found = [repeat[kind] for repeat in row["repeats"] if repeat.get(kind) is not None]
            if row["fraction"] == fraction and found and run.seed not in values:
                values[run.seed] = sum(found) / len(found)
                spans |= {run.seed: row["interval"]} if kind == "top1" and row.get("interval") else {}
    ours = kind == "top1" and stream == published.JOINT and not place[4] and not members[0].apart
    paper = published.semi(members[0].method, place[0], place[1], fraction) if ours else None
    return over_seeds(values, spans, paper) if values else None


def fine_tuned(runs: Collection) -> Table | None:
    """Trained on labels from pretrained weights, or (scratch) from random ones; one row per method, trial and stream."""
    found: dict[tuple[str, str, str], dict[Place, dict[tuple[int, int], Mapping[str, Any]]]] = {}
    for label, members in runs.rows.items():
        for run in members:
            for one in run.finetuned:
                trial = str(one["trial"]).removesuffix(f"-seed{one['seed']}")
                row = found.setdefault((label, trial, str(one["stream"])), {})
                row.setdefault(_place({**one, "draw": "", "schedule": "paper"}), {})[run.seed, int(one["seed"])] = one
    if not found:
        return None
    columns = sorted({place for row in found.values() for place in row})
    rows = [Row(", ".join(name), [_tuned_cell(row[place]) if place in row else None for place in columns]) for name, row in found.items()]
    notes = ("The last epoch's number.", INTERVAL)
    return Table("Fine-tuning, top-1 in %", [_place_name(place) for place in columns], rows, notes, "", "method, trial, stream")


def _tuned_cell(found: Mapping[tuple[int, int], Mapping[str, Any]]) -> Cell:
    """Over the seeds of pretraining, or of fine-tuning where there are more of those."""
    own, tuned = {pretrained for pretrained, _ in found}, {seed for _, seed in found}
    values: dict[int, list[float]] = {}
    for (pretrained, seed), one in found.items():
        values.setdefault(pretrained if len(own) >= len(tuned) else seed, []).append(float(one["top1"]))
    spans = {place: one["interval"] for place, one in enumerate(found.values()) if one.get("interval")}
    mean = over_seeds({seed: sum(tops) / len(tops) for seed, tops in values.items()})
    ends = over_seeds(dict.fromkeys(spans, 0.0), spans).interval if spans else None
    return replace(mean, interval=ends)


def ablations(runs: Collection) -> dict[str, Table]:
    """The paper's ablations of which the runs stand for a row: {table: rows by sets}, linear probe of the joint stream."""
    members = [run for label, found in runs.rows.items() if not runs.apart(label) for run in found]
    places: dict[tuple[str, str], list[Run]] = {}
    for run in members:
        for place in results.ablation_rows(run):
            places.setdefault(place, []).append(run)
    found = {}
    for name, ablation in ABLATIONS.items():
        rows = []
        for row in ablation.rows:
            there = Collection({row.name: places.get((name, row.name), [])}, runs.settings)
            paper = [
                row.published if (s.benchmark, s.protocol) == published.BENCHMARKS[0] and s.comparable else None for s in runs.settings
            ]
            cells = [there.cell(row.name, s, probed("joint", "linear"), value) for s, value in zip(runs.settings, paper)]
            rows.append(Row(row.name, cells))
        trivial = {ablation.proposed, *(row.name for row in ablation.rows if not row.texts and row.published is not None)}
        if {row.name for row in _there(rows)} - trivial:  # more than AC-SAR beside SCD-Net, which the tables above have
            missing = [row.name for row in rows if not any(row.cells)]
            notes = [INTERVAL, *([f"Not run: {', '.join(missing)}."] if missing else [])]
            title = f"{ablation.title} ({ablation.source}): linear probe, joint stream, top-1 in %"
            found[f"ablation-{name}"] = Table(title, [s.name for s in runs.settings], _there(rows), notes, _source(rows), "row")
    return found


def every_run(runs: Collection) -> Table:
    """Each seed's own numbers, and which epoch they are of."""
    names = ("linear", "linear_last", "linear_best_on_test", "knn1", "random_linear", "random_knn1", "raw_linear", "raw_knn1")
    heads = ("linear", "last epoch", "best on test", "1-NN", "random linear", "random 1-NN", "raw linear", "raw 1-NN")
    rows = []
    for run in (run for members in runs.rows.values() for run in members):
        for reached in run.reached:
            for stream in reached.probes:
                cells = [_alone(run, probed(stream, name)(reached)) for name in names]
                rows.append(Row(f"{run.name} {stream}", cells, reached.setting.name))
            widest = max(reached.fused, key=len, default="")
            if "+" in widest:
                cells = [_alone(run, subset(widest)(reached)), *[None] * (len(names) - 1)]
                rows.append(Row(f"{run.name} {widest}", cells, reached.setting.name))
    notes = (
        "linear: the classifier of the whole training part at the epoch that a classifier without the held-aside subjects chose.",
        "last epoch: that classifier's last epoch. best on test: the best test accuracy over its epochs, as much of the field reports it; "
        "it is chosen on the test part and decides nothing here.",
        INTERVAL,
    )
    return Table("Every run: top-1 in %", heads, sorted(rows, key=lambda row: row.group), notes, "", "run and stream")


def _alone(run: Run, found: tuple[float, Sequence[float]] | None) -> Cell | None:
    """One seed's number."""
    return None if found is None else over_seeds({run.seed: found[0]}, {run.seed: found[1]} if len(found[1]) == 2 else None)


def _paper(runs: Collection, label: str, setting: Setting, name: str) -> float | None:
    """The published number that stands beside ours."""
    if not setting.comparable or runs.apart(label):
        return None
    return published.linear(runs.rows[label][0].method, setting.benchmark, setting.protocol, name)


def _without_method(runs: Collection, setting: Setting, look: Look) -> Cell | None:
    """A number that depends on the probe's seed (who is held aside) and not on the method: of the method with the most seeds there."""
    label = max(runs.rows, key=lambda label: sum(look(reached) is not None for reached in runs.seeds(label, setting).values()))
    return runs.cell(label, setting, look)


def _peers(settings: Sequence[Setting], name: str) -> list[Row]:
    """Rows of published numbers, where a column is one of the paper's."""
    rows = []
    for peer in (
        published.Peer(published.OURS, published.LINEAR[published.SINGLE], published.LINEAR[published.THREE], True),
        *published.PEERS,
    ):
        numbers = {published.SINGLE: peer.joint, published.THREE: peer.three}[name]
        places = dict(zip(published.BENCHMARKS, numbers))
        found = [places.get((s.benchmark, s.protocol)) if s.comparable else None for s in settings]
        rows.append(Row(peer.name, [None if value is None else Cell(value) for value in found], PEERS))
    return _there(rows)


def _there(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if any(cell is not None for cell in row.cells)]


def _source(rows: Sequence[Row]) -> str:
    told = any(row.group == PEERS or any(cell and cell.published is not None for cell in row.cells) for row in rows)
    return published.SOURCE if told else ""


def _table(title: str, runs: Collection, rows: Sequence[Row]) -> Table:
    """Without the columns that nobody of ours has a number for."""
    own = [row for row in rows if row.group not in (PEERS, REFERENCES)]
    kept = [place for place in range(len(runs.settings)) if any(row.cells[place] for row in own)]
    settings = [runs.settings[place] for place in kept]
    rows = _there([Row(row.name, [row.cells[place] for place in kept], row.group) for row in rows])
    notes, other = [INTERVAL], [setting.name for setting in settings if not setting.comparable]
    if other:
        notes.append(f"No published number compares with {'these columns' if len(other) == len(settings) else ', '.join(other)}.")
    return Table(
        title, [setting.name for setting in settings], rows, notes, _source(rows), "streams" if "by streams" in title else "method"
    )
