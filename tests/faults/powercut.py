"""What a power cut could take, by the rules of POSIX alone: bytes until their file is synced, names until their folder is."""

from collections.abc import Iterable
from pathlib import Path

from tests.faults.shim import Operation


class Disk:
    """Follows operations; `bytes` are files whose content is not safe, `names` files and folders whose entry is not."""

    def __init__(self, there: Iterable[Path] = ()) -> None:
        self.there = set(there)
        self.bytes: set[Path] = set()
        self.names: set[Path] = set()

    def see(self, operation: Operation) -> None:
        """Take one operation in."""
        path, kind = operation.path, operation.kind
        if kind in ("open", "mkdir") and path not in self.there:
            self.there.add(path)
            self.names.add(path)
        elif kind in ("write", "truncate"):
            self.bytes.add(path)
        elif kind == "fsync":
            self.bytes.discard(path)
            self.names = {name for name in self.names if name.parent != path}
        elif kind in ("unlink", "rmdir"):
            for known in (self.there, self.bytes, self.names):
                known.discard(path)
        elif kind in ("rename", "link"):
            assert operation.to is not None
            self.there.add(operation.to)
            self.names.add(operation.to)
            if path in self.bytes:
                self.bytes.add(operation.to)
            if kind == "rename":
                self.see(Operation(0, "unlink", 0, path, None))

    def unsafe(self, path: Path, root: Path) -> list[str]:
        """Why `path` might be gone after a power cut: its bytes, its name, or the name of a folder above it, up to `root`."""
        lost = [f"the bytes of {path}"] if path in self.bytes else []
        for above in (path, *path.parents):
            if above == root:
                break
            if above in self.names:
                lost.append(f"the name of {above}")
        return lost
