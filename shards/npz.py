"""Arrays of an `.npz` file, read without loading large ones whole and without ever unpickling."""

import os
import shutil
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError

LOADED_MAX = 64 << 20
"""Members up to this many bytes are simply loaded."""


class Npz:
    """A read-only mapping from member name to array.

    A large member that is stored is memory-mapped inside the zip; one that is compressed is extracted once to a temporary file, which
    goes when the object that made it goes (a copy in another process uses the same file).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, NDArray[Any]] = {}
        self._extracted: dict[str, str] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = tuple(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{path}: not a readable .npz ({error}); write it again with numpy.savez", reason="unreadable zip") from None

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array; an InputError names file and member where it is missing, damaged or pickled."""
        if name not in self.names:
            raise InputError(f"{self.path}: no array {name!r}; there are {', '.join(self.names)}")
        if name not in self._arrays:
            try:
                self._arrays[name] = self._open(name)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
                if "pickle" in str(error).lower():
                    raise InputError(
                        f"{self.path}: array {name!r} holds pickled objects, which could run code; write it as numbers or text", "pickled"
                    ) from None
                raise InputError(f"{self.path}: array {name!r} is unreadable ({error}); write the file again", "unreadable zip") from None
        return self._arrays[name]

    def _open(self, name: str) -> NDArray[Any]:
        if name in self._extracted:
            return np.load(self._extracted[name], mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(name + ".npy")
            if info.file_size <= LOADED_MAX:
                with archive.open(info) as member:
                    return np.lib.format.read_array(member, allow_pickle=False)
            if info.compress_type == zipfile.ZIP_STORED:
                return self._mapped(info)
            folder = tempfile.mkdtemp(prefix="acsar-npz-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            target = Path(folder) / f"{name}.npy"
            with archive.open(info) as member, target.open("wb") as out:
                shutil.copyfileobj(member, out, 1 << 20)
        self._extracted[name] = str(target)
        return np.load(target, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def _mapped(self, info: zipfile.ZipInfo) -> NDArray[Any]:
        with self.path.open("rb") as file:
            file.seek(info.header_offset + 26)
            # The local header's own name and extra lengths: they may differ from the directory's.
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(int(lengths.sum()), os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            if dtype.hasobject:
                raise ValueError("pickled objects")
            return np.memmap(self.path, dtype, "r", file.tell(), shape, "F" if fortran else "C")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}
