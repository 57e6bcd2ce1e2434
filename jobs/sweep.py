"""The rows of an ablation as runs: what each is called, whether its captions are there, and the table that the runs' files fill.

A run is named by its configuration and not by its table, so that a line which stands in several tables is trained once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from acsar import probes
from acsar.ablations import ABLATIONS, TEXTS, Ablation, Row, Texts, configured
from acsar.ac_sar import ACSARConfig
from acsar.scdnet import SCDNetConfig
from acsar.streams import LETTERS
from jobs import journal, tables
from jobs.configuration import same_configuration
from jobs.pretrain import Pretrain
from jobs.run_folder import RunFolder, read_json, write_bytes
from jobs.scores import Scores, read_scores
from jobs.tables import Cell, Table, over_seeds
from jobs.text import HashText
from shards.errors import InputError
from shards.stream import PackedSet

PAPER = ("ntu60", "xsub")  # set and protocol of the published numbers, which are of the joint stream
WORD = "word"


@dataclass(frozen=True)
class Line:
    """One row of a table and its runs, one for each seed; none where its captions were not given."""

    row: Row
    runs: dict[int, Pretrain]


@dataclass(frozen=True)
class Sweep:
    """Every row of some ablations over one base recipe, each seed a run of its own."""

    base: Pretrain  # resolved on the set that has captions by words; its name is what all runs' names begin with
    tables: tuple[str, ...]  # of acsar.ablations.ABLATIONS; "all"
    texts: Mapping[str, Path]  # further packed sets, the same clips with other captions, by their names in TEXTS
    seeds: tuple[int, ...]

    def ablations(self) -> dict[str, Ablation]:
        """The tables that were asked for. Raises InputError as `asked`."""
        return asked(self.tables)

    def lines(self, ablation: Ablation) -> list[Line]:
        """The rows of one table with their runs."""
        return [Line(row, self._runs(row)) for row in ablation.rows]

    def jobs(self) -> list[Pretrain]:
        """Every distinct run of all tables, seed by seed, of each table first the proposed line, with which the others are compared.

        Raises InputError where captions are not what they are called, or a name belongs to a run of another configuration."""
        self._check()
        every = [
            line.runs[seed]
            for seed in self.seeds
            for ablation in self.ablations().values()
            for first in (True, False)
            for line in self.lines(ablation)
            if line.runs and (line.row.name == ablation.proposed) is first
        ]
        found = list({job.name: job for job in every}.values())
        for job in found:
            self._same(job)
        return found

    def lacking(self) -> dict[str, list[str]]:
        """Captions that rows want and nobody gave: {name in TEXTS: rows}."""
        found: dict[str, list[str]] = {}
        for name, ablation in self.ablations().items():
            for row in ablation.rows:
                if row.texts and row.texts not in self._sets:
                    found.setdefault(row.texts, []).append(f"{name}: {row.name}")
        return found

    def table(self, name: str) -> Table:
        """The table as far as its runs have come. Raises InputError as `jobs`, and for damaged files."""
        ablation, streams = ABLATIONS[name], self.base.streams
        lines = self.lines(ablation)
        proposed = next(line for line in lines if line.row.name == ablation.proposed)
        comparable = (self._sets[WORD].manifest["benchmark"], self.base.protocol) == PAPER
        columns: list[str] = []
        cells: list[list[Cell | None]] = [[] for _ in lines]
        told: list[str] = []
        chosen: list[str] = []
        for stream in streams:
            mark = f"{LETTERS[stream]} " if len(streams) > 1 else ""
            columns += [f"{mark}{column}" for column in ("linear", "1-NN", "minus proposed", "held aside", "text used")]
            best = _of_runs(proposed, stream)
            for line, row in zip(lines, cells):
                mine = _of_runs(line, stream)
                gaps = {} if line is proposed else _gaps(mine, best)
                row += _cells(line, mine, gaps, line.row.published if comparable and stream == "joint" else None)
                if gaps:
                    told.append(f"{mark}{line.row.name} is {_side(gaps)} {ablation.proposed}")
            chosen += _choice(lines, [row[-2] for row in cells], mark)
        rows = [tables.Row(line.row.name, row) for line, row in zip(lines, cells)]
        source = f"AC-SAR, Acta Electronica Sinica 2025, {ablation.source}" if comparable else ""
        return Table(f"{ablation.title}: {self.base.name}", columns, rows, self._notes(ablation, told, chosen, comparable), source)

    def write(self, folder: Path) -> list[Path]:
        """Every table as Markdown, CSV and LaTeX below the folder; the files."""
        kinds = {"md": tables.markdown, "csv": tables.comma_separated, "tex": tables.latex}
        files = []
        for name in self.ablations():
            table = self.table(name)
            for ending, render in kinds.items():
                files.append(folder / f"{_file(name)}.{ending}")
                write_bytes(files[-1], render(table).encode())
        return files

    @cached_property
    def _sets(self) -> dict[str, PackedSet]:
        return {name: PackedSet.open(path) for name, path in {WORD: self.base.data, **self.texts}.items()}

    def _runs(self, row: Row) -> dict[int, Pretrain]:
        base = _method(self.base)
        packed = self._sets.get(row.texts or WORD)
        if packed is None:
            return {}
        method = configured(row, base)
        name = "-".join([self.base.name, *_words(method, base), *([row.texts] if row.texts not in ("", WORD) else [])])
        return {seed: replace(self.base, method=method, data=packed.path, seed=seed, name=f"{name}-s{seed}") for seed in self.seeds}

    def _check(self) -> None:
        _method(self.base)
        if not self.seeds:
            raise InputError("--seeds: at least one is needed, such as --seeds 0,1,2")
        unknown = [name for name in self.texts if name not in TEXTS]
        if unknown:
            raise InputError(f"--texts {unknown[0]}=...: captions are called {', '.join(name for name in TEXTS if name != WORD)}")
        for name, packed in self._sets.items():
            _same_clips(name, packed, self._sets[WORD])
            _form(name, TEXTS[name], packed)

    def _same(self, job: Pretrain) -> None:
        """Raise InputError when a run of another configuration has the name."""
        content_id = next(packed.content_id for packed in self._sets.values() if packed.path == job.data)
        for stream in job.streams:
            same_configuration(RunFolder(job.runs / job.name / stream), job, {"content_id": content_id})

    def _notes(self, ablation: Ablation, told: list[str], chosen: list[str], comparable: bool) -> list[str]:
        """What was trained and compared, in sentences."""
        base, packed = self.base, self._sets[WORD]
        length = f"{base.steps} steps" if base.steps is not None else f"{base.epochs} epochs"
        what = f"recipe {base.recipe}, {length}, batch {base.batch_size}; {packed.path.name} ({packed.content_id[:12]}), {base.protocol}"
        notes = [f"Test accuracy of the linear probe and of 1-NN in percent; {what}."]
        if base.method.width != SCDNetConfig().width:
            notes.append("The network is smaller than the paper's.")
        notes.append(f"Minus proposed: paired with {ablation.proposed}, seed by seed, over test people.")
        if told:
            notes.append(f"{'; '.join(told)}; above or below: beyond the interval of the difference in every seed.")
        if chosen:
            notes.append(f"Held aside: accuracy on training people that its classifier did not see; {'; '.join(chosen)}.")
        notes.append("Text used: text_reliance on clips kept out of training, in percent of ln(their number); about 0: not used.")
        used = {row.texts for row in ablation.rows}
        notes += [_captions_of(key, packed) for key, packed in self._sets.items() if key in used]
        if not comparable:
            notes.append(f"The paper's numbers ({ablation.source}) are of NTU RGB+D 60 x-sub and cannot be compared with these.")
        return notes


@dataclass(frozen=True)
class _Read:
    """What one finished run says of one stream: percent, with intervals; its scores; text_reliance in percent of ln(samples)."""

    report: dict[str, Any]
    scores: Scores
    reliance: float | None


def asked(names: tuple[str, ...]) -> dict[str, Ablation]:
    """The ablations of these names, all for "all". Raises InputError listing them for an unknown one, or none."""
    if not names or any(name not in (*ABLATIONS, "all") for name in names):
        told = "; ".join(f"{name} ({ablation.title}: {ablation.source})" for name, ablation in ABLATIONS.items())
        raise InputError(f"--table {','.join(names)}: tables are all, {told}" if names else f"--table NAME is needed: all, {told}")
    return {name: ablation for name, ablation in ABLATIONS.items() if name in names or "all" in names}


def texts_of(words: tuple[str, ...], root: Path | None = None) -> dict[str, Path]:
    """--texts NAME=PACKED,NAME=PACKED as {name: folder}. Raises InputError for what is not of that form, or comes twice."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (equals and name and path):
            raise InputError(f"--texts {word}: NAME=PACKED is wanted, NAME one of {', '.join(n for n in TEXTS if n != WORD)}")
        if name == WORD or name in found:
            why = "are those of --data" if name == WORD else "come twice"
            raise InputError(f"--texts {word}: captions {name} {why}; leave one out")
        found[name] = ((root or Path()) / path).resolve()
    return found


def how_to_make(name: str) -> list[str]:
    """The commands that make a packed set with captions of this name in TEXTS; words in capitals are the user's."""
    wanted, usual = TEXTS[name], Texts()
    captions = "CAPTIONS" if name == "sentence" else f"captions/{name}"
    say = ["--videos VIDEOS --data RAW --out", captions]
    say += [f"--frames {wanted.frames}"] if wanted.frames != usual.frames else []
    say += [f"--hidden --max-tokens {wanted.length}"] if wanted.form == "undecoded" else []
    say += [f"--limits.max-tokens {wanted.length}"] if wanted.length != usual.length else []
    if wanted.captioner == "DeepSeek-VL":
        say.append("--captioner deepseek-vl")
    elif wanted.captioner != usual.captioner:  # no library loads it without running its own code
        say = [f"--captioner import --captions {wanted.captioner.upper()}.jsonl --data RAW --out", captions]
    level = {"word": "", "sentence": " --level sentence", "undecoded": " --level hidden"}[wanted.form]
    return [
        *([] if name == "sentence" else [f"python launch/caption.py {' '.join(say)}"]),
        f"python launch/encode_text.py --captions {captions} --out features/{name}{level}",
        f"python launch/pack.py --data RAW --captions {captions} --text features/{name} --out packed/{name} --missing-text train",
    ]


def _method(job: Pretrain) -> ACSARConfig:
    if not isinstance(job.method, ACSARConfig):
        raise InputError(f"--recipe {job.recipe} has no captions to vary; ablations start from acsar, acsar-small or demo")
    return job.method


def _words(method: SCDNetConfig, base: ACSARConfig) -> list[str]:
    """In what a row's method differs from the base, for its name."""
    if not isinstance(method, ACSARConfig):
        return ["scdnet", method.stem]
    differ = [f.name for f in fields(base) if getattr(method, f.name) != getattr(base, f.name)]
    return [
        f"{name.replace('_', '-')}-{value:g}" if isinstance(value := getattr(method, name), float) else f"{name}-{value}" for name in differ
    ]


def _same_clips(name: str, packed: PackedSet, first: PackedSet) -> None:
    """Raise InputError unless both sets have the same clips, divided alike: else rows would differ in more than their captions."""

    def clips(of: PackedSet) -> set[tuple[Any, ...]]:
        return {(r.key, r.label, r.subject, r.camera, r.setup, r.split, r.frames) for r in of.samples}

    if other := {clip[0] for clip in clips(packed) ^ clips(first)}:
        told = f"{len(other)} clips are not the same in both, for example {min(other)}"
        raise InputError(f"captions {name}: {packed.path} and {first.path} are not of the same clips ({told}); pack the same data for both")


def _form(name: str, wanted: Texts, packed: PackedSet) -> None:
    """Raise InputError where a set's text features are not of the form that goes by this name."""
    text = packed.manifest["text"]
    if text is None:
        raise InputError(f"captions {name}: {packed.path} has no texts; make it with: {'; '.join(how_to_make(name))}")
    tokens, _ = text["shape"]
    form = "undecoded" if text["encoder"].endswith(" hidden") else "sentence" if tokens == 1 else "word"
    if form != wanted.form:
        raise InputError(f"captions {name}: {packed.path} has {form} features ({text['encoder']}, {text['shape']}); wanted: {wanted.form}")
    if form == "undecoded" and tokens > wanted.length:
        raise InputError(f"captions {name}: {packed.path} has features of up to {tokens} tokens; caption with --max-tokens {wanted.length}")


def _captions_of(name: str, packed: PackedSet) -> str:
    """What the captions of one set are, as a sentence."""
    text = packed.manifest["text"]
    assert text is not None
    stand_in = ", a STAND-IN in which no word means anything" if text["encoder"] == HashText.encoder else ""
    marked = " (supervision: text-from-label)" if text["provenance"] in ("label", "program") else ""
    return f"Captions {name}: {text['provenance']}{marked}, {text['shape']} by {text['encoder']}{stand_in}."


def probed(job: Pretrain, stream: str) -> bool:
    """Has a run finished this stream, and was it probed since?"""
    folder, report = RunFolder(job.runs / job.name / stream), _report(job, stream)
    if not (folder.result.is_file() and report.is_file()):
        return False
    same: bool = read_json(report)["encoder_sha256"] == read_json(folder.result)["encoder_sha256"]
    return same


def _report(job: Pretrain, stream: str) -> Path:
    return job.runs / job.name / "probe" / job.protocol / f"{stream}.json"


def _read(job: Pretrain, stream: str) -> _Read | None:
    """What a run says of a stream; None before it is probed."""
    if not probed(job, stream):
        return None
    path = _report(job, stream)
    scores, folder = read_scores(path.with_name(f"{stream}.scores.npz")), RunFolder(job.runs / job.name / stream)
    shares = [r["metrics"].get("text_reliance_share") for r in journal.read(folder.path) if r["type"] == "eval"]
    said = next((share for share in reversed(shares) if share is not None), None)
    return _Read(read_json(path), scores, None if said is None else 100 * said)


def _of_runs(line: Line, stream: str) -> dict[int, _Read]:
    """By seed, what the runs of a line that are done say of a stream."""
    return {seed: read for seed, job in line.runs.items() if (read := _read(job, stream))}


Gaps = dict[int, tuple[float, tuple[float, float]]]  # {seed: (difference in percent, its interval over test people)}


def _cells(line: Line, mine: Mapping[int, _Read], gaps: Gaps, published: float | None) -> list[Cell | None]:
    """Linear, 1-NN, minus proposed, held aside, text used."""
    if not mine:
        return [Cell(published=published, note="not yet" if line.runs else f"no captions {line.row.texts}"), None, None, None, None]
    partly = "" if len(mine) == len(line.runs) else f"{len(mine)} of {len(line.runs)} seeds"
    linear, nearest = (
        over_seeds({s: float(r.report[name]) for s, r in mine.items()}, {s: r.report["intervals"][name] for s, r in mine.items()})
        for name in ("linear", "knn1")
    )
    aside = {seed: float(value) for seed, r in mine.items() if (value := r.report.get("held_aside_linear")) is not None}
    used = {seed: r.reliance for seed, r in mine.items() if r.reliance is not None}
    gap = over_seeds({s: value for s, (value, _) in gaps.items()}, {s: span for s, (_, span) in gaps.items()}) if gaps else None
    rest = (over_seeds(values) if values else None for values in (aside, used))
    return [replace(linear, published=published, note=partly), nearest, gap, *rest]


def _choice(lines: list[Line], aside: list[Cell | None], mark: str) -> list[str]:
    """Which line the held-aside people would choose, once all lines that have runs are there: test accuracy chooses nothing."""
    there = [(line, cell) for line, cell in zip(lines, aside) if line.runs]
    if len(there) < 2 or any(cell is None or len(cell.seeds) < len(line.runs) for line, cell in there):
        return []
    best, _ = max(there, key=lambda pair: pair[1].value if pair[1] and pair[1].value is not None else -1.0)
    return [f"by it {mark}{best.row.name} would be chosen"]


def _side(gaps: Gaps) -> str:
    """Of a line and the proposed one, in words."""
    if all(low > 0 for _, (low, _) in gaps.values()):
        return "above"
    return "below" if all(high < 0 for _, (_, high) in gaps.values()) else "not told apart from"


def _gaps(mine: Mapping[int, _Read], proposed: Mapping[int, _Read]) -> Gaps:
    """Where both were probed, clip by clip."""
    found = {}
    for seed in sorted(mine.keys() & proposed.keys()):
        ours, theirs = _hits(mine[seed].scores), _hits(proposed[seed].scores)
        if ours.keys() != theirs.keys():
            raise InputError(f"seed {seed}: two lines were tested on other clips ({len(ours)} and {len(theirs)}); probe both again")
        gap = torch.tensor([hit - theirs[key][0] for key, (hit, _) in ours.items()], dtype=torch.float64)
        people = torch.tensor([who for _, who in ours.values()])
        low, high = probes.interval(gap, people if len(set(people.tolist())) > 1 else None, seed=seed)
        found[seed] = (100 * float(gap.mean()), (100 * low, 100 * high))
    return found


def _hits(scores: Scores) -> dict[str, tuple[bool, int]]:
    """(was it right, whose clip) by key, in the order of the keys."""
    right = probes.hits(scores.scores, scores.labels).tolist()
    return {key: (bool(hit), who) for key, hit, who in sorted(zip(scores.keys, right, scores.subjects.tolist()))}


def _file(name: str) -> str:
    return f"table-{name}" if name.isdigit() else name
