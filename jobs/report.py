"""A report of finished runs: one page that needs nothing else, and its tables as Markdown, CSV and LaTeX."""

import csv
import dataclasses
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs import environment, published, replay, report_tables, report_words, results, tables
from jobs.pretrain import Pretrain
from jobs.report_chart import chart
from jobs.report_page import Page, Section, markdown, page
from jobs.report_tables import Collection
from jobs.results import Run
from jobs.run_folder import read_json, write_bytes, write_json
from jobs.tables import Table
from jobs.targets import default_runs
from shards.errors import InputError

PICTURES = ("accuracy.png", "loss.png")  # first, if they are there; the others by name


@dataclass(frozen=True)
class Report:
    """Gather runs into one page: tables in the paper's layout, what they say in words, pictures, and where every number comes from."""

    runs: tuple[Path, ...] = ()  # RUNS/NAME, names below --folder, or folders of runs; default: every run of --folder
    folder: Path | None = None  # of all runs; default $ACSAR_RUNS, else ./runs
    name: str = "report"  # the report's
    title: str = "Skeleton action recognition: what the runs reached"  # of the page
    pictures: Literal["first", "all", "none"] = "first"  # from RUNS/NAME/figures: of each method's first seed, of all runs, none
    out: Path | None = None  # folder for the report; default FOLDER/reports/NAME

    def __call__(self) -> dict[str, Any]:
        """Write the page, its Markdown, LaTeX and CSV files; {"html", "files", "sentences", "unfinished", "runs"}, as in report.json too.

        Raises InputError where no run is named, or none has been probed."""
        read = [results.read(path) for path in self.found()]
        unfinished = [line for run in read for line in run.lines]
        usable = [run for run in read if run.reached or run.semi or run.finetuned]
        if not usable:
            raise InputError(f"no run has been probed yet: {'; '.join(unfinished) or 'they are empty'}")
        runs = Collection.of(usable)
        found = report_tables.tables(runs)
        every = report_tables.every_run(runs)
        gaps = {setting: gap for setting in runs.settings if (gap := report_words.differences(runs, setting))}
        sentences = {setting.name: report_words.verdicts(gap) for setting, gap in gaps.items()}
        found |= {f"differences-{place + 1}": report_words.differences_table(*item) for place, item in enumerate(gaps.items())}
        document = self.document(runs, found, every, sentences, unfinished)
        files = {
            "report.html": page(document),
            "report.md": markdown(document),
            "report.tex": "\n".join(tables.latex(table) for table in found.values()),
            **{f"{name}.csv": tables.comma_separated(table) for name, table in found.items()},
            "runs.csv": tidy(runs),
        }
        folder = self.place()
        for name, text in files.items():
            write_bytes(folder / name, text.encode())
        told: dict[str, Any] = {
            "html": str(folder / "report.html"),
            "files": [str(folder / name) for name in files],
            "sentences": [f"{name}: {line}" for name, lines in sentences.items() for line in lines],
            "unfinished": unfinished,
            "runs": {label: [run.name for run in members] for label, members in runs.rows.items()},
        }
        probes = {str(path): read_json(path)["encoder_sha256"] for run in read for path in replay.probe_reports(run.path)}
        write_json(folder / "report.json", {**told, "probes": probes})  # last: it says that the report is whole
        return told

    def place(self) -> Path:
        """Where the report is written."""
        return self.out or self._folder() / "reports" / self.name

    def found(self) -> list[Path]:
        """The runs' folders, each once. Raises InputError for a word that means none."""
        everything = self._folder()
        if not self.runs:
            names = replay.comparisons(everything)
            if not names:
                raise InputError(f"no runs in {everything}; name some with --runs, or their folder with --folder")
            return sorted(everything / name for name in names)
        paths: dict[Path, None] = {}
        for word in self.runs:
            tried = list(dict.fromkeys([word, everything / word]))
            for path in tried:
                inside = [path] if replay.streams(path) or any(path.glob("probe/*/*.json")) else []
                inside = inside or sorted(path / name for name in replay.comparisons(path))
                if inside:
                    paths |= dict.fromkeys(one.resolve() for one in inside)
                    break
            else:
                raise InputError(f"--runs {word}: no run in {' or '.join(map(str, tried))}; give RUNS/NAME as pretrain.py named it")
        return list(paths)

    def _folder(self) -> Path:
        return self.folder or default_runs()

    def document(
        self,
        runs: Collection,
        found: Mapping[str, Table],
        every: Table,
        sentences: Mapping[str, Sequence[str]],
        unfinished: Sequence[str],
    ) -> Page:
        """The page's content."""
        members = [run for found_runs in runs.rows.values() for run in found_runs]
        deviations = report_words.deviations(runs)
        stand_in = any(line.startswith("STAND-IN") for line in deviations)
        summary = [
            f"{len(members)} runs of {len(runs.rows)} methods; {', '.join(setting.name for setting in runs.settings) or 'nothing probed'}; "
            f"seeds {', '.join(map(str, sorted({run.seed for run in members})))}. Made from the runs' own files at commit "
            f"{_short(environment.commit())}."
        ]
        summary += ["Some of it is a stand-in: see what deviates from the paper."] if stand_in else []
        choices = [f"{point}: paper {paper}; SCD-Net's code {code}; here {here}." for point, paper, code, here in report_words.CHOICES]
        return Page(
            self.title,
            summary,
            (
                Section("In words", text=(HOW,), lists=sentences),
                Section("To know before quoting a number", sentences=report_words.cautions(runs)),
                Section("At a glance", charts=[drawn for setting in runs.settings if (drawn := chart(runs, setting))]),
                Section("Tables", tables=list(found.values())),
                Section("Pictures", pictures=self._pictures(runs)),
                Section("Every run", tables=[every]),
                Section("Not finished", sentences=list(unfinished)),
                Section("Data, captions, code", sentences=[origin(run) for run in members]),
                Section("What deviates from the paper", sentences=deviations),
                Section("Where the paper is silent, or its code differs", sentences=choices),
                Section("Commands", commands=commands(members)),
            ),
        )

    def _pictures(self, runs: Collection) -> list[tuple[str, Path]]:
        chosen = {"first": 1, "all": None, "none": 0}[self.pictures]
        found = []
        for label, members in runs.rows.items():
            for run in members[:chosen]:
                files = sorted((run.path / "figures").glob("*.png"), key=lambda path: (_rank(path.name), path.name))
                found += [(f"{label}, run {run.name}: {path.stem.replace('_', ' ').replace('-', ' ')}", path) for path in files]
        return found


HOW = (
    "Linear probe. To beat, or to be beaten, is meant beyond the interval: the 95 % bootstrap interval over test subjects of the "
    "difference on the same clips leaves out zero, and all seeds agree. The numbers are in the tables of differences. Test accuracy "
    "decides nothing: the epoch is chosen on training subjects held aside."
)


def origin(run: Run) -> str:
    """One line: where a run's numbers come from."""
    facts, job = run.facts, run.job
    if not facts:
        return f"{run.name}: weights from elsewhere ({run.recipe})."
    words = [
        f"set {facts['content_id'][:12]} ({Path(str(job['data'])).name}, {facts['benchmark']})",
        f"protocol {facts['protocol']}, {facts.get('train', '?')} / {facts.get('test', '?')} clips",
        f"recipe {run.recipe}, seed {run.seed}, {facts['steps']} steps of {job.get('batch_size', '?')}",
        _caption_words(run),
        f"commit {_short(str(facts.get('commit', '')))}",
        f"torch {facts.get('versions', {}).get('torch', '?')} on {facts.get('device', '?')}",
    ]
    return f"{run.name}: {'; '.join(words)}."


def _caption_words(run: Run) -> str:
    if not run.captions:
        return "no captions"
    text = run.text
    size = f", {text['distinct']} distinct" if "distinct" in text else ""
    version = run.facts.get("caption_version", 1)
    return f"captions {run.captions}{size}" + (f", version {version} of {run.facts['caption_base'][:12]}" if version != 1 else "")


def _short(commit: str) -> str:
    head, plus, changes = commit.partition("+")
    return (head[:12] + plus + changes) if head else "unknown (no git checkout)"


def commands(runs: Sequence[Run]) -> list[str]:
    """What makes every run again, and this report."""
    lines = [line for run in runs if run.job for line in (pretrain_command(run), *_probe_commands(run))]
    names = " ".join(shlex.quote(run.name) for run in runs)
    return [*lines, f"python launch/report.py --runs {names}"]


def pretrain_command(run: Run) -> str:
    """The pretrain command of a run: its recipe, and the flags that differ from it."""
    usual = {f.name: f.default for f in dataclasses.fields(Pretrain) if f.default is not dataclasses.MISSING}
    recipe = results.recipe_fields(run.recipe)
    flags: dict[str, Any] = {"recipe": run.recipe, "data": run.job["data"], "protocol": run.job["protocol"], "seed": run.seed}
    flags |= {name: own for name, (_, own) in results.changes(run).items()}
    own = {name: run.flat[name] for name, value in usual.items() if name in run.flat and name not in recipe and run.flat[name] != value}
    flags |= {name: value for name, value in own.items() if name not in (*flags, *replay.PLACES) and name != "nodes"}
    flags |= {name: True for name in ("allow_label_text", "allow_large_queue") if run.job.get(name)}
    words = [word for name, value in flags.items() if value is not None for word in _flag(name, value)]
    return " ".join(["python launch/pretrain.py", "--name", shlex.quote(run.name), *words])


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, shlex.quote(f"{value:.12g}" if isinstance(value, float) else str(value))]


def _probe_commands(run: Run) -> list[str]:
    lines = []
    for reached in run.reached:
        setting = reached.setting
        words = ["--schedule paper"] if setting.schedule == "paper" else []
        words += [f"--protocol {setting.protocol} --transductive"] if setting.transductive else []
        words += [f"--transfer {setting.data}"] if setting.transfer else []
        seeds = {int(report.get("seed", 0)) for report in reached.probes.values()}
        words += [f"--seed {seed}" for seed in seeds if seed and len(seeds) == 1]
        lines.append(" ".join(["python launch/probe.py --run", shlex.quote(run.name), *words]))
    return [*lines, f"python launch/fuse.py --run {shlex.quote(run.name)}"] if any(reached.fused for reached in run.reached) else lines


def tidy(runs: Collection) -> str:
    """CSV with a line per number: for other people's plots."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "run", "seed", "set", "protocol", "schedule", "content_id", "streams", "metric", "value", "low", "high"])
    for label, members in runs.rows.items():
        for run in members:
            for reached in run.reached:
                s = reached.setting
                place = [label, run.name, run.seed, published.NAMES.get(s.benchmark, s.data), s.protocol, s.schedule]
                for stream, report in reached.probes.items():
                    for metric, (low, high) in report["intervals"].items():
                        writer.writerow([*place, report["content_id"], stream, metric, report[metric], low, high])
                for subset, found in reached.fused.items():
                    if "+" in subset:
                        low, high = found["intervals"]["top1"]
                        writer.writerow([*place, run.facts.get("content_id", ""), subset, "fused", found["top1"], low, high])
    return buffer.getvalue()


def _rank(name: str) -> int:
    return PICTURES.index(name) if name in PICTURES else len(PICTURES)
