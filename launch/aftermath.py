"""After the ranks of a submitted job have ended: what it means, and what happens now. The batch script (launch/batch.sh) acts on it.

`python -m launch.aftermath LOGS CODE` reads what the ranks left in the unit's folder and what Slurm says of the job (from environment
variables: it calls no command, so it also works in a container), writes LOGS/ends/TAG.json, and prints one line:

    done 0                                  finished, or stopped where it was told to
    again [--exclude=H --nodes=N --ntasks=T] start the ranks again at once in this allocation, with these words for srun
    requeue                                 put this job back into the queue
    resubmit HOST                           give this job up for a new one without HOST
    stop CODE                               a person has to look

Pre-emptions and time-outs are free while steps advance, and so are crashes; three in a row without progress stop the unit.
A host that fails twice at the start is left out. Jobs that Slurm itself starts again, since a node died, leave no end and count nothing.
"""

import itertools
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.run_folder import write_json
from launch.evidence import End, Facts, collect
from launch.unit import Unit

PATIENCE = 3  # ends of one kind in a row without progress
FAST = 120  # seconds: what fails this soon may be the host's fault
STRIKES = 2  # fast failures of one host
EARLY = 60  # seconds by which Slurm may announce a time-out too soon
SIGNALLED = (128 + 12, 128 + 15)  # ended by USR2 or TERM


def decide(facts: Facts) -> End:
    """What the end of the ranks means and what happens now. Pure: it reads nothing, and no clock."""
    host, error = first_error(facts)
    _, restart, round_ = facts.tag.rsplit(".", 2)
    cause = cause_of(facts)
    end = End(
        tag=facts.tag,
        job=facts.job,
        restart=int(restart),
        round=int(round_),
        code=facts.code,
        cause=cause,
        action="",
        why="",
        host=host if cause == "crash" else "",
        error=error if cause in ("crash", "input", "unknown") else "",
        step_before=facts.step_before,
        step_after=facts.step_after,
        seconds=facts.seconds,
        nodes=[name for name in facts.nodes if name not in facts.left_out],
    )
    action, words, why = _decision(facts, end)
    return End(**{**asdict(end), "action": action, "words": words, "why": why})


def cause_of(facts: Facts) -> str:
    """Why the ranks ended."""
    faults = [entry for entry in facts.failures if not entry["communication"]]
    if facts.status in ("finished", "stopped"):  # whatever befell a rank after its work was done
        return facts.status
    if facts.cancelled or (facts.ended and not (facts.timed_out or facts.preempted or facts.queued)):
        return "cancelled"
    if facts.refused or any(entry["input"] for entry in faults) or (facts.code == 2 and not faults):
        return "input"
    if facts.status == "interrupted":
        return _interruption(facts)
    if facts.code == 0 and facts.done:
        return "finished"
    if not faults and (facts.ended or (facts.code in SIGNALLED and (facts.preempted or facts.left_s <= facts.signal_s + EARLY))):
        return _interruption(facts)
    return "unknown" if facts.slurm is None else "crash"


def first_error(facts: Facts) -> tuple[str, str]:
    """(host, one line) of what failed first: not what the other ranks then said of their broken exchanges. ("", ...): no one host."""
    if facts.refused:
        return "", facts.refused
    recorded = {entry["rank"] for entry in facts.failures}
    words = [(host, rank, text) for host, rank, text in facts.said if rank not in recorded]
    if words and not words[0][2].startswith("Exited"):  # ended by a signal: it had no chance to say more
        return _said(*words[0])
    faults = sorted((entry for entry in facts.failures if not entry["communication"]), key=lambda entry: (entry["time"], entry["rank"]))
    if faults:
        hosts = {entry["host"] for entry in faults}
        return hosts.pop() if len(hosts) == 1 else "", _line(faults[0])
    if words:
        return _said(*words[0])
    if not facts.failures:
        return "", f"the ranks ended with code {facts.code} and left no word"
    silent = _silent(facts, recorded)
    return silent if silent[0] else ("", _line(facts.failures[0]))


def _said(host: str, rank: int, text: str) -> tuple[str, str]:
    return host, f"{host}: {text}" if rank < 0 else f"rank {rank} on {host}: {text}"


def _silent(facts: Facts, recorded: set[int]) -> tuple[str, str]:
    """The host of the ranks that left nothing while all others missed them."""
    hosts = [name for name in facts.nodes if name not in facts.left_out]
    ranks = [rank for rank in range(len(hosts) * facts.tasks_per_node) if rank not in recorded]
    places = {hosts[rank // facts.tasks_per_node] for rank in ranks}
    if len(places) != 1:
        return "", ""
    host = places.pop()
    return host, f"rank {ranks[0]} on {host}: silent while the others waited for it"


def _interruption(facts: Facts) -> str:
    if facts.preempted:
        return "preempted"
    return "timeout" if facts.timed_out or facts.left_s <= facts.signal_s + EARLY else "interrupted"


def _decision(facts: Facts, end: End) -> tuple[str, list[str], str]:
    """(action, its words, one sentence)."""
    if end.cause in ("finished", "stopped"):
        return "done", ["0"], f"{end.cause} at step {end.step_after}"
    if end.cause == "cancelled":
        return "stop", [str(end.code or 1)], "the job was cancelled"
    if end.cause == "input":
        return "stop", ["2"], "it can be mended, so it is not tried again"
    if end.cause == "unknown":
        return "stop", ["75"], "Slurm does not answer: nothing can be started from here"
    row = _since_progress(facts, end)
    goes_on = f"goes on from step {end.step_after}"
    if facts.queued:
        return "requeue", [], f"Slurm starts the job again; {goes_on}"
    if end.interruption:
        count = sum(one.interruption for one in row)
        if count >= PATIENCE:
            return "stop", ["1"], f"{count} interruptions in a row without progress (step {end.step_after}): too little time for a step"
        return "requeue", [], goes_on
    count = sum(one.cause == "crash" for one in row)
    if count >= PATIENCE:
        return "stop", [str(end.code or 1)], f"{count} crashes in a row without progress (step {end.step_after})"
    counted = f"crash {count} of {PATIENCE} without progress" if count else "a crash after progress"
    if facts.ended or facts.preempted or facts.left_s <= facts.signal_s:
        return "requeue", [], f"{counted}, as the job was to leave; {goes_on}"
    if _strikes(row, end) >= STRIKES:
        return _without(facts, end.host)
    return "again", [], f"{counted}; {goes_on}"


def _since_progress(facts: Facts, end: End) -> list[End]:
    """The ends since steps last advanced, this one included, newest first; none when this one made progress."""
    return list(itertools.takewhile(lambda one: not one.progress, [end, *reversed(facts.earlier)]))


def _strikes(row: list[End], end: End) -> int:
    """Fast failures of this end's host, this one included."""
    if not end.host or end.seconds >= FAST:
        return 0
    return sum(one.cause == "crash" and one.host == end.host and one.seconds < FAST for one in row)


def _without(facts: Facts, host: str) -> tuple[str, list[str], str]:
    """Leave a host out: a new job where enough others are left, else fewer ranks here, else nothing."""
    out = [*facts.left_out, host]
    others = [name for name in facts.usable if name not in out]
    sentence = f"{host} failed {STRIKES} times at the start"
    if "_" in facts.job:  # an element of an array has no submission of its own
        return "requeue", [], f"{sentence}: Slurm starts this element again, elsewhere where it can"
    if len(others) >= len(facts.nodes):
        return "resubmit", [host], f"{sentence}: a new job without it"
    rest = len([name for name in facts.nodes if name not in out])
    world = next((world for world in range(rest * facts.tasks_per_node, 0, -1) if facts.batch and facts.batch % world == 0), 0)
    if world and not facts.zero:
        nodes = -(-world // facts.tasks_per_node)
        return "again", [f"--exclude={','.join(out)}", f"--nodes={nodes}", f"--ntasks={world}"], f"{sentence}: {world} rank(s) without it"
    reason = f"ZeRO {facts.zero} binds the run to its number of ranks" if world else "there is no other for it"
    return "stop", [str(facts.code or 1)], f"{sentence}, and {reason}: mend or exclude {host}, then launch/retry.py"


def _line(entry: dict[str, Any]) -> str:
    text = " ".join(str(entry["message"]).split())[:400]
    if entry["input"]:
        return text
    return f"rank {entry['rank']} on {entry['host']}: {entry['kind']}: {text}"


def main(arguments: list[str]) -> int:
    """Decide, write it down, print it."""
    logs, code = Path(arguments[0]), int(arguments[1])
    unit = Unit(logs.parents[1], logs.parent.name)
    end = decide(collect(unit, code, dict(os.environ)))
    write_json(unit.ends / f"{end.tag}.json", {**asdict(end), "time": round(time.time(), 3)})
    print(f"--- {end.tag}: {end.cause}: {end.error + '; ' if end.error else ''}{end.why}", file=sys.stderr)
    print(end.line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
