"""File systems under a path: the longest mount point counts, network kinds are known."""

from pathlib import Path

import pytest

from jobs.filesystem import MOUNTS, Mount, is_network, mount_of

TABLE = """\
/dev/sda2 / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw,nosuid,nodev 0 0
auto.home /home autofs rw,fd=6,direct 0 0
filer:/vol/home /home nfs4 rw,vers=4.2 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw,flock 0 0
/dev/nvme0n1 /scratch/local xfs rw 0 0
//server/lab /mnt/lab\\040data cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "point"),
    [
        ("/usr/lib", "ext4", "/"),
        ("/tmp/none/such", "tmpfs", "/tmp"),
        ("/home/ann/none/such", "nfs4", "/home"),  # over the automounter's own entry
        ("/scratch/none/runs", "lustre", "/scratch"),
        ("/scratchy/none", "ext4", "/"),  # a name's beginning is no parent
        ("/", "ext4", "/"),
    ],
)
def test_longest_mount_point_counts(path: str, kind: str, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: True)
    assert mount_of(Path(path), TABLE) == Mount(kind, Path(point))


def test_mount_points_with_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: True)
    assert mount_of(Path("/mnt/lab data/runs"), TABLE) == Mount("cifs", Path("/mnt/lab data"))
    assert mount_of(Path("/scratch/local/x"), TABLE).kind == "xfs"


def test_network_kinds() -> None:
    network = "nfs nfs4 lustre gpfs beegfs cifs smb3 fuse.sshfs ceph panfs afs 9p wekafs fuse.glusterfs fuse.ceph fuse.juicefs virtiofs"
    assert all(Mount(kind, Path("/")).network for kind in network.split())
    local = "ext4 xfs btrfs zfs tmpfs overlay fuseblk fuse.fuse-overlayfs apfs unknown"
    assert not any(Mount(kind, Path("/")).network for kind in local.split())


def test_this_machine(tmp_path: Path) -> None:
    there = mount_of(tmp_path)
    missing = mount_of(tmp_path / "a" / "b")  # not made yet: where it would lie
    assert there == missing
    assert there.point in [tmp_path, *tmp_path.parents]
    assert is_network(tmp_path) == there.network
    if MOUNTS.is_file():
        assert there.kind != "unknown"


def test_no_mount_table() -> None:
    assert mount_of(Path("/"), "") == Mount("unknown", Path("/"))
