"""The code that submitted jobs run: a read-only copy in RUNS/.code/HASH, so that later edits never reach them.

    RUNS/.code/HASH/{acsar,shards,jobs,launch}/   every file of the packages
    RUNS/.code/HASH/snapshot.json                 hash, commit, {file: sha256}
    RUNS/.code/HASH/changes.diff                  what was not committed, if anything

HASH is drawn from the files and the commit; the same code is copied once. Jobs run it by PYTHONPATH=RUNS/.code/HASH PYTHONSAFEPATH=1.
"""

import hashlib
import json
import shutil
import subprocess
import uuid
from pathlib import Path

from jobs import InputError
from jobs.environment import commit
from jobs.run_folder import write_json

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("acsar", "shards", "jobs", "launch")
LEFT_OUT = (".pyc", ".pyo", ".tmp", ".swp", "~")


def snapshot(runs: Path, root: Path = ROOT) -> Path:
    """Copy the packages below `root` to RUNS/.code/HASH unless that is there already; the folder, complete whenever it exists.

    Any number of processes may do so at once. A copy that lost files, as scratch file systems delete old ones, is made again.
    Raises InputError when the runs folder cannot be written."""
    files = sources(root)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    at = commit()
    name = hashlib.sha256(json.dumps([at, digests], sort_keys=True).encode()).hexdigest()[:16]
    folder = runs.resolve() / ".code" / name
    if intact(folder, digests):
        return folder
    staged = folder.with_name(f".{name}.{uuid.uuid4().hex}")
    try:
        for path, content in files.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_bytes(content)
            (staged / path).chmod(0o444)
        if changes := _changes(root):
            (staged / "changes.diff").write_bytes(changes)
        write_json(staged / "snapshot.json", {"hash": name, "commit": at, "files": digests})
        _put(staged, folder, digests)
    except OSError as error:
        raise InputError(f"the code cannot be copied to {folder}: {error.strerror}; --runs names another folder") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def sources(root: Path) -> dict[str, bytes]:
    """Every file of the packages by its path below `root`, package data and shell files too; no caches, no editors' leftovers."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            name = path.relative_to(root)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
            if not hidden and not path.name.endswith(LEFT_OUT) and path.is_file():
                found[name.as_posix()] = path.read_bytes()
    return found


def intact(folder: Path, digests: dict[str, str]) -> bool:
    """True when every file is there with its content."""
    try:
        here = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in digests}
    except OSError:
        return False
    return here == digests and (folder / "snapshot.json").is_file()


def _put(staged: Path, folder: Path, digests: dict[str, str]) -> None:
    """Give the finished copy its name. Another process may have done so in the meantime: then its copy stays."""
    damaged = staged.with_name(f"{staged.name}.damaged")
    try:
        if folder.exists() and not intact(folder, digests):
            folder.rename(damaged)
        staged.rename(folder)
    except OSError:
        if not intact(folder, digests):
            raise
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


def _changes(root: Path) -> bytes:
    """What differs from the commit in the packages; b"" outside a git checkout."""
    try:
        done = subprocess.run(["git", "diff", "--binary", "HEAD", "--", *PACKAGES], cwd=root, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout
