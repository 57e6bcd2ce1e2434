"""One packer per folder: a claim by numbered records, the newest of which owns the folder while its process lives.

A record is linked into place, which fails when the number exists: no lock, no clock and no second look is needed."""

import contextlib
import glob
import json
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from shards.errors import InputError

BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Claim:
    """This process owns `folder` until `release` or `discard`."""

    folder: Path
    record: Path

    @classmethod
    def take(cls, folder: Path) -> "Claim":
        """Claim a folder, made if needed. InputError naming host, pid and time when a living process owns it.

        An owner of this host that is dead is taken over; one of another host is believed to live."""
        while True:
            try:
                folder.mkdir(exist_ok=True)
                held = sorted(folder.glob("owner.*.json"))
                if held and (owner := _living(held[-1])):
                    raise InputError(
                        f"{folder} is in use by pid {owner['pid']} on {owner['host']} since {owner['since']}: wait for it, "
                        f"or if that job is gone remove {folder} and start again"
                    )
                number = int(held[-1].name.split(".")[1]) + 1 if held else 0
                claim = cls(folder, _link(folder / f"owner.{number:04d}.json"))
                claim._remove_gone()
                return claim
            except (FileExistsError, FileNotFoundError):
                if folder.exists() and not folder.is_dir():
                    raise InputError(f"{folder} is a file, and packing needs that name for a folder: move it away") from None
                if not folder.parent.is_dir():
                    raise InputError(
                        f"{folder.parent} is not a folder, so nothing can be packed there; make it or choose another --out"
                    ) from None
            except OSError as error:
                raise InputError(f"cannot write {folder}: {error.strerror}; choose another --out") from None

    @property
    def number(self) -> int:
        """How many owners died before this one."""
        return int(self.record.name.split(".")[1])

    def release(self) -> None:
        """Give the folder up and leave what is in it, if anything, for the next owner."""
        self.record.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def discard(self) -> None:
        """Remove the folder, for others in one step."""
        gone = self.folder.with_name(f"{self.folder.name}.{os.getpid()}.gone")
        self.folder.rename(gone)
        self._remove_gone()

    def _remove_gone(self) -> None:
        """Remove what was discarded, also by an owner that was killed meanwhile."""
        for gone in self.folder.parent.glob(f"{glob.escape(self.folder.name)}.*.gone"):
            shutil.rmtree(gone, ignore_errors=True)


def _link(path: Path) -> Path:
    me = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%F %T"),
    }
    handle, name = tempfile.mkstemp(prefix=".claim.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(me, file)
        os.link(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
    return path


def _living(record: Path) -> dict[str, object] | None:
    """The owner that a record names, unless it is known to be dead."""
    owner: dict[str, object] = json.loads(record.read_text())
    if owner["host"] != socket.gethostname():
        return owner
    alive = owner["boot"] == _boot() and owner["started"] == _started(int(str(owner["pid"])))
    return owner if alive else None


def _boot() -> str:
    return BOOT.read_text().strip() if BOOT.exists() else ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot (pids are used again); "" when there is none."""
    if not BOOT.exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return "running"
        return "running"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
