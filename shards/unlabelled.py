"""Clips whose action nobody has told: .skeleton files under any name, exchange files with or without labels, folders of both."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.errors import InputError
from shards.exchange import open_exchange
from shards.npz import Npz
from shards.ntu import parse_clip
from shards.samples import Clip

SUFFIXES = (".skeleton", ".npz")


@dataclass(frozen=True)
class Unlabelled:
    """One clip: its name, the file that it is in, and how to read it (InputError where it is broken or shows nobody)."""

    name: str
    file: Path
    read: Callable[[], Clip]

    @property
    def where(self) -> str:
        """How messages call it."""
        return str(self.file) if self.file.stem == self.name else f"{self.file}: {self.name}"


def files_at(path: Path) -> list[Path]:
    """The file itself, or the files of a folder at any depth, sorted. InputError where there are none."""
    if path.is_file() and path.suffix in SUFFIXES:
        return [path]
    if path.is_file():
        raise InputError(f"{path}: neither .skeleton nor .npz; give one of these, or a folder of them")
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and not file.name.startswith("."))
    if not found:
        raise InputError(f"{path}: no .skeleton and no .npz file in this folder")
    return found


def clips_in(file: Path) -> Iterator[Unlabelled]:
    """The clips of one file, in its order. InputError where an .npz is no exchange file; a .skeleton file is looked at when it is read."""
    if file.suffix == ".skeleton":
        yield Unlabelled(file.stem, file, partial(_skeleton, file))
        return
    arrays = Npz(file)
    if "offsets" not in arrays or not ("joints" in arrays or "delta" in arrays):
        raise InputError(f"{file}: no exchange file (arrays {', '.join(arrays.names) or 'none'}; it needs offsets, and joints or delta)")
    source = open_exchange(file, arrays, label=())
    for name in source.rows:
        yield Unlabelled(name, file, partial(source.read, name))


def _skeleton(file: Path) -> Clip:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    return parse_clip(data, str(file))
