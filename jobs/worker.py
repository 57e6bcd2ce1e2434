"""One process of a job: `python -m jobs.worker JOB.json PART [STAGE]`. The job comes as JSON, the ranks through the environment."""

import atexit
import gc
import json
import sys
from pathlib import Path

from jobs import failures, stages
from shards.errors import InputError


def work(description: Path, part: str, stage: str = "pretrain") -> int:
    """Run one part of a stage (of pretraining: one stream) on this rank, and print what came out as JSON.

    0: done, stopped or interrupted (resumable); 2: the user can mend it, one line on stderr."""
    atexit.register(gc.freeze)  # or the interpreter spends a second of its end on looking for garbage among all that was imported
    try:
        outcome = stages.run(stage, description, part)
    except InputError as error:
        failures.record(error)
        print(error, file=sys.stderr)
        return 2
    except BaseException as error:
        failures.record(error)
        raise
    print(json.dumps(outcome, default=str))
    return 0


def main(arguments: list[str]) -> int:
    """Command line of one worker process."""
    if len(arguments) not in (2, 3) or (arguments[2:] and arguments[2] not in stages.STAGES):
        print(f"usage: python -m jobs.worker JOB.json PART [{'|'.join(stages.STAGES)}]", file=sys.stderr)
        return 2
    return work(Path(arguments[0]), *arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
