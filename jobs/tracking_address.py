"""Where MLflow's copy of the journals goes: a server, or an sqlite file, which never lies on a network file system.

Locks of network file systems are not to be trusted, and sqlite lives by them. Where RUNS is on one, the file goes to a folder of the
user's own on a disk of this host; it is a copy of the journals, so losing it loses nothing.
"""

import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jobs.filesystem import mount_of
from shards.errors import InputError

SQLITE = "sqlite:///"
FILE = "mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Address:
    """A tracker's address; `why` says why an sqlite file is not in the runs folder."""

    uri: str
    why: str = ""

    @property
    def server(self) -> bool:
        """True for an MLflow server: any number of hosts may write to it."""
        return is_server(self.uri)

    @property
    def database(self) -> Path | None:
        """The sqlite file, None when there is none."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None


def address(runs: Path, uri: str | None = None, mounts: str | None = None) -> Address:
    """As given, else $MLFLOW_TRACKING_URI, else an sqlite file: in the runs folder, or on a disk of this host.

    `mounts`: text like /proc/self/mounts, by default that. Raises InputError where the file would lie on a network file system."""
    asked = Address(uri or os.environ.get(VARIABLE) or f"{SQLITE}{runs.resolve() / FILE}")
    if asked.database is None:
        return asked
    mount = mount_of(asked.database.parent, mounts)
    if not mount.network:
        return asked
    if uri or os.environ.get(VARIABLE):
        raise InputError(f"{VARIABLE}={asked.uri}: {mount.point} is {mount.kind}, where sqlite files break; name a local disk or a server")
    name = f"{runs.resolve().name}-{hashlib.sha256(str(runs.resolve()).encode()).hexdigest()[:12]}"
    folder = _local_folder(mounts) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return Address(f"{SQLITE}{folder / FILE}", f"{mount.point} is {mount.kind}, where sqlite files break: the database is on this host")


def is_server(uri: str) -> bool:
    """True for the address of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def without_secrets(text: str) -> str:
    """The text with the credentials of every address in it left out."""
    text = re.sub(r"(?<=://)[^/\s]+@", "***@", text)
    return re.sub(r"(?i)([?&][^=\s&]*(?:password|token|secret|key)[^=\s&]*=)[^&\s]+", r"\1***", text)


def _local_folder(mounts: str | None) -> Path:
    """A folder of the user's own on a disk of this host: where programs keep their state, else below the system's temporary folder."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "acsar"
    for folder in (state, Path(tempfile.gettempdir()) / f"acsar-{os.getuid()}"):
        if not mount_of(folder, mounts).network and _private(folder):
            return folder
    raise InputError(f"no local disk for the tracking database ({state.parent} and {tempfile.gettempdir()} do not serve): set {VARIABLE}")


def _private(folder: Path) -> bool:
    """Make the folder for this user alone; False when it cannot be made or belongs to somebody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()  # a link in a temporary folder may be somebody's trap
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        folder.chmod(0o700)
    except OSError:
        return False
    return True
