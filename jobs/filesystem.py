"""Which file system a path lies on, and whether other hosts can see it: locks and databases behave differently there."""

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
# fmt: off
NETWORK = frozenset((
    "9p", "afpfs", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "daos", "dvs", "gfs", "gfs2", "glusterfs", "gpfs", "lizardfs",
    "lustre", "mmfs", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs",
    "vboxsf", "virtiofs", "wekafs",
))
# of FUSE file systems the kind says who serves it (fuse.sshfs); these stay on this machine
LOCAL_FUSE = frozenset((
    "bindfs", "encfs", "exfat", "fuse-overlayfs", "gocryptfs", "ntfs-3g", "overlayfs", "portal", "snapfuse", "squashfuse",
    "unionfs", "zfs",
))
# fmt: on


@dataclass(frozen=True)
class Mount:
    """One mounted file system: its kind as the kernel names it (ext4, nfs4, fuse.sshfs), and where it is mounted."""

    kind: str
    point: Path

    @property
    def network(self) -> bool:
        """True when a file server is behind it. A FUSE file system that is not known to be local counts as one."""
        family, _, server = self.kind.partition(".")
        return server not in LOCAL_FUSE if family == "fuse" and server else self.kind in NETWORK


def mount_of(path: Path, table: str | None = None) -> Mount:
    """The file system under `path`, or under its nearest parent that exists.

    `table`: text like /proc/self/mounts, which is read by default; where there is none (not Linux) the kind is "unknown"."""
    path = path.resolve()
    while not path.exists() and path != path.parent:
        path = path.parent  # also makes an automounter mount what it is going to show
    if table is None:
        try:
            table = MOUNTS.read_text()
        except OSError:
            return Mount("unknown", Path("/"))
    found = Mount("unknown", Path("/"))
    for mount in _mounts(table):  # of two mounts on one point the later one covers the earlier one
        if path.is_relative_to(mount.point) and len(mount.point.parts) >= len(found.point.parts):
            found = mount
    return found


def is_network(path: Path) -> bool:
    """True when `path` lies (or would lie) on a network file system."""
    return mount_of(path).network


def _mounts(table: str) -> list[Mount]:
    """Each line's kind and mount point; blanks in names are written as octal escapes."""
    rows = [line.split() for line in table.splitlines()]
    return [Mount(row[2], Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), row[1]))) for row in rows if len(row) >= 3]
