"""What a rank that fails leaves behind for whoever looks at the job afterwards: LOGS/errors/TAG.RANK.json.

A scheduler's task knows LOGS (ACSAR_LOGS) and the TAG of this start of the ranks (ACSAR_TAG, JOB.RESTART.ROUND); without them nothing
is written. When one rank dies the others fail in the next exchange: such echoes are marked, so that the first cause can be told.
"""

import contextlib
import json
import os
import re
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from jobs.run_folder import write_json
from shards.errors import InputError

LINES = 20  # of a traceback
# what gloo, NCCL and the rendezvous say when another rank is gone, besides their own exception classes
ECHO = re.compile(
    r"gloo/|NCCL|ProcessGroup|TCPStore|"
    r"Connection (?:closed|reset|refused|aborted)|Broken pipe|[Ss]ocket (?:[Tt]imeout|closed)|[Tt]imed out waiting|recvValue failed"
)


def tag() -> str:
    """The name of this start of the ranks, "" outside a scheduler's job."""
    return os.environ.get("ACSAR_TAG", "")


def job() -> str:
    """The scheduler's id of this job (123, or 123_4 in an array), "" outside one."""
    return tag().rsplit(".", 2)[0]


def rank() -> int:
    """This process's rank by its environment; 0 when it is alone."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def record(error: BaseException) -> None:
    """Write down why this rank fails. Never raises: the error itself matters more."""
    logs = os.environ.get("ACSAR_LOGS", "")
    if not logs or not tag():
        return
    with contextlib.suppress(Exception):
        write_json(
            Path(logs) / "errors" / f"{tag()}.{rank()}.json",
            {
                "tag": tag(),
                "rank": rank(),
                "host": socket.gethostname(),
                "kind": type(error).__name__,
                "message": str(error),
                "communication": communication(error),
                "input": isinstance(error, InputError),
                "trace": "".join(traceback.format_exception(error)).splitlines()[-LINES:],
                "time": round(time.time(), 3),
            },
        )


def communication(error: BaseException) -> bool:
    """Whether the error is the echo of another rank's end: an exchange that broke off or never came about."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "DistError" in kinds or isinstance(error, ConnectionError):
        return True
    return type(error) is RuntimeError and ECHO.search(str(error)) is not None


def read(logs: Path, tag: str) -> list[dict[str, Any]]:
    """What the ranks of one start left in LOGS/errors, by rank; files cut short are left out."""
    found = []
    for path in (logs / "errors").glob(f"{tag}.*.json"):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            found.append(json.loads(path.read_text()))
    return sorted(found, key=lambda entry: entry["rank"])
