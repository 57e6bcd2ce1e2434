"""What a run's numbers depend on besides its configuration: commit, versions, host, threads, device."""

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from jobs.run_folder import read_json

PACKAGES = ("acsar-suite", "torch", "deepspeed", "numpy", "scikit-learn", "webdataset", "safetensors")


def facts() -> dict[str, Any]:
    """Facts for config.json: commit ("" outside a git checkout; "+changes" with uncommitted work), versions, host."""
    return {"commit": commit(), "versions": versions(), **host()}


def device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def host() -> dict[str, Any]:
    """This machine and process."""
    cuda = torch.cuda.is_available()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "devices": torch.cuda.device_count() if cuda else 0,
    }


def versions() -> dict[str, str]:
    """Python and the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The git commit of this code; of a snapshot (launch/snapshot.py) the one that it was made from."""
    snapshot = Path(__file__).resolve().parents[1] / "snapshot.json"
    if snapshot.is_file():
        return str(read_json(snapshot)["commit"])
    head = _git("rev-parse", "HEAD")
    return head and head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
