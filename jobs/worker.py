"""One process of a job: `python -m jobs.worker JOB.json STREAM`. The job comes as JSON, the ranks through the environment."""

import json
import sys
from pathlib import Path

from jobs.codec import decode, encode
from jobs.pretrain import Pretrain
from jobs.run_folder import read_json, write_json
from shards.errors import InputError


def write_job(job: Pretrain, path: Path) -> Path:
    """Write the job as JSON for `work`; returns the path."""
    write_json(path, encode(job))
    return path


def work(description: Path, stream: str) -> int:
    """Run one stream on this rank, and print what came out as JSON.

    0: done, stopped or interrupted (resumable); 2: the user can mend it, one line on stderr."""
    try:
        if not description.is_file():
            raise InputError(f"{description} does not exist; it is the JSON file that a launch script writes for its workers")
        outcome = decode(Pretrain, read_json(description))(stream)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(outcome))
    return 0


def main(arguments: list[str]) -> int:
    """Command line of one worker process."""
    if len(arguments) != 2:
        print("usage: python -m jobs.worker JOB.json STREAM", file=sys.stderr)
        return 2
    return work(Path(arguments[0]), arguments[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
