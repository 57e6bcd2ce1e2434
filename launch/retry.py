"""Submit again what is missing of a comparison, and only that; it goes on from the newest checkpoints.

Finished units are left, and so are those that run or wait. A person asks for it, so crashes so far no longer count against a run.
Jobs run the code of their first submission (RUNS/.code); the command that submitted them takes the code as it is now.

    python launch/retry.py NAME
    python launch/retry.py NAME joint probe --dry-run
"""

import sys

sys.path[0] = sys.path[0].removesuffix("/launch")
from launch.start import prepare

prepare()
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs import InputError
from jobs.codec import encode
from jobs.replay import STREAMS
from jobs.run_folder import read_json
from launch import scheduler
from launch.cli import finish, parse, print_json
from launch.submission import resubmit
from launch.traces import find
from launch.unit import Unit
from launch.view import ALIVE, UnitView, look, upstream


@dataclass(frozen=True)
class Retry:
    """Flags of `retry`."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]  # of the comparison
    # joint, bone, motion, caption, gather, pack, probe, fuse, ...; default: all
    keys: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="[KEY ...]")] = field(default_factory=list)
    runs: Path = field(default_factory=lambda: Path(os.environ.get("ACSAR_RUNS", "runs")))  # folder of all runs
    dry_run: bool = False  # say what would be submitted, submit nothing
    json: bool = False  # print one JSON document and nothing else


@dataclass(frozen=True)
class Verdict:
    """What is done about one unit."""

    key: str
    state: str
    action: str  # left, submitted, type (a command), or would submit
    why: str
    jobs: list[str] = field(default_factory=list)
    command: str = ""


def main(argv: list[str]) -> int:
    """Look, submit what is missing, say what was done about every unit."""
    command = parse(Retry, argv, __doc__ or "")
    run = find(command.runs.resolve(), command.name, command.keys)
    views = look(run)
    if any(view.jobs and view.state != "finished" for view in views) and not scheduler.answers():
        raise InputError("Slurm does not answer (sinfo), so nobody can tell what still runs or waits; nothing was submitted")
    chosen = [view for view in views if view.key in (command.keys or [view.key])]
    verdicts = again(run, chosen, views, command.dry_run)
    if command.json:
        print_json({"run": str(run), "units": [asdict(verdict) for verdict in verdicts]})
        return 0
    for verdict in verdicts:
        print(f"{verdict.key}: {verdict.why}")
    for line in dict.fromkeys(verdict.command for verdict in verdicts if verdict.command):
        print(f"type: {line}")
    return 0


def again(run: Path, chosen: Sequence[UnitView], views: Sequence[UnitView], dry_run: bool) -> list[Verdict]:
    """Submit what is missing, in the order of the work, so that later units wait for the new jobs of earlier ones."""
    jobs = {view.key: view.jobs for view in views if view.jobs and view.state in ALIVE}
    verdicts = []
    for view in chosen:
        why = reason_to_leave(run, view)
        lacking = [first.key for first in upstream(view, views) if first.state != "finished" and first.key not in jobs]
        if not why and lacking:
            why = f"{view.state}; it needs {', '.join(lacking)}, which nobody works on: retry that too"
        if why:
            verdicts.append(Verdict(view.key, view.state, "left", why))
        elif not view.jobs:
            verdicts.append(Verdict(view.key, view.state, "type", f"{view.state}; it was not submitted to Slurm", command=continues(run)))
        elif dry_run:
            jobs[view.key] = view.jobs
            verdicts.append(Verdict(view.key, view.state, "would submit", f"{view.state}; would be submitted again{_parts(view)}"))
        else:
            after = [job for first in upstream(view, views) for job in jobs.get(first.key, [])]
            submission = resubmit(Unit(run, view.key), after=after)
            jobs[view.key] = [job for job, _, _ in submission.jobs]
            told = f"{view.state}; submitted again{_parts(view)} as job {', '.join(jobs[view.key])}"
            waits = f" after {', '.join(after)}" if after else ""
            verdicts.append(Verdict(view.key, view.state, "submitted", told + waits, jobs[view.key]))
    return verdicts


def reason_to_leave(run: Path, view: UnitView) -> str:
    """Why there is nothing to submit for a unit, "" when there is."""
    if view.state == "finished":
        return "finished"
    if view.state in ALIVE and view.jobs:
        missing = f"; {len(view.missing)} of its parts went wrong: retry when the others have ended" if view.missing else ""
        return f"{view.state} as job {', '.join(view.jobs)}{missing}"
    if view.state == "running":
        return f"runs on {', '.join(view.hosts)}"
    job = read_json(run / "job.json") if view.key in STREAMS and (run / "job.json").is_file() else {}
    if view.state == "stopped" and job.get("stop_after") and (view.step or 0) >= job["stop_after"]:
        return f"stopped at --stop-after {job['stop_after']}; the same command without it goes on"
    return ""


def continues(run: Path) -> str:
    """The command that continues a comparison which ran without a scheduler: what its job file says beyond the recipe's numbers."""
    from jobs.pretrain import Pretrain  # torch: seconds that only this answer is worth

    path = run / "job.json"
    if not path.is_file():
        return "the command that started it"
    job = read_json(path)
    if "recipe" not in job:  # a trial of fine-tuning
        return _finetunes(job)
    recipe = encode(Pretrain.of(job["recipe"], data=Path(job["data"]), name=job["name"], runs=Path(job["runs"]), protocol=job["protocol"]))
    words = [word for name in ("recipe", "data", "name", "runs", "protocol") for word in (f"--{name}", str(job[name]))]
    usual, said = _flat(recipe), _flat(job)
    if job["steps"] is None and job["epochs"] is not None:
        said.pop("steps")
        usual["epochs"] = None
    for name, value in said.items():
        if usual.get(name) != value:
            words += _flag(name, value)
    return shlex.join(["python", "launch/pretrain.py", *words, "--cluster", "local"])


def _finetunes(job: dict[str, Any]) -> str:
    """The command that continues a trial of fine-tuning: what its job file says beyond the defaults."""
    from jobs.finetune import Finetune

    usual = encode(Finetune(Path(job["run"])))
    words = [word for name, value in job.items() if name not in ("run", "runs") and value != usual[name] for word in _flag(name, value)]
    return shlex.join(["python", "launch/finetune.py", "--run", job["run"], *words, "--cluster", "local"])


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        head, _, tail = flag.rpartition(".")
        return [f"--{flag}" if value else f"--{head + '.' if head else ''}no-{tail}"]
    return [f"--{flag}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if name != "kind":
            flag = f"{prefix}{name}"
            flat |= _flat(value, f"{flag}.") if isinstance(value, dict) else {flag: value}
    return flat


def _parts(view: UnitView) -> str:
    """How many of an array's parts, where it is one."""
    return f" ({len(view.missing)} of {sum(view.parts.values())} parts)" if sum(view.parts.values()) > 1 else ""


if __name__ == "__main__":
    finish(main)
