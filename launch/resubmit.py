"""Called by a batch script that gives up its place: `python -m launch.resubmit LOGS HOST...` submits the unit again without HOSTs.

Jobs that wait for this one are told to wait for the new one.
"""

import re
import sys
from pathlib import Path

from jobs import InputError
from launch import scheduler
from launch.submission import resubmit
from launch.unit import Unit


def main(arguments: list[str]) -> int:
    """Submit again, and say under which number."""
    logs, hosts = Path(arguments[0]), arguments[1:]
    unit = Unit(logs.parents[1], logs.parent.name)
    try:
        old = unit.submitted()
        submission = resubmit(unit, exclude=hosts, looked=False)
        follow({job: new for (job, _, _), (new, _, _) in zip(old.jobs if old else [], submission.jobs)})
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"submitted again as {', '.join(submission.job_ids())} without {', '.join(submission.exclude)}")
    return 0


def follow(replaced: dict[str, str]) -> None:
    """Let waiting jobs wait for the new numbers in place of the old ones."""
    for line in scheduler.ask("squeue", "--noheader", "--me", "--states=PENDING", "--format=%i|%E").splitlines():
        job, _, dependency = line.partition("|")
        words = re.sub(r"\([^)]*\)", "", dependency)  # afterok:12(unfulfilled)
        renamed = re.sub(r"\d+", lambda number: replaced.get(number[0], number[0]), words)
        if renamed != words:
            scheduler.ask("scontrol", "update", f"JobId={job}", f"Dependency={renamed}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
