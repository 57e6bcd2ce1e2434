"""Opening raw data: look at what a path holds and pick the reader."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from shards.arrays import PARTS, open_agcn, open_ctrgcn
from shards.errors import InputError
from shards.exchange import open_exchange
from shards.npz import Npz
from shards.ntu import find_places, open_ntu
from shards.pku import is_pku, open_pku
from shards.samples import Clip, Sample, Source

__all__ = ["Clip", "Sample", "Source", "open_source"]

ACCEPTED = (
    "a folder or zip of NTU RGB+D .skeleton files; a PKU-MMD folder (skeleton/, label/); an AGCN folder (train_data_joint.npy, "
    "train_num_frame.npy, train_label.pkl); a CTR-GCN .npz (x_train, y_train); an exchange .npz (label, offsets, delta or joints)"
)


def open_source(path: Path | str, label: Sequence[str] = ("label",)) -> Source:
    """The data set at `path`; `label` names the columns of an exchange file whose cross product is the class.

    InputError, with what is accepted, where nothing of the kind is there, and where the path is a packed set."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; accepted are {ACCEPTED}")
    exchange = _exchange_file(path)
    if exchange is not None:
        return open_exchange(exchange, Npz(exchange), label)
    if tuple(label) != ("label",):
        raise InputError(f"{path}: --label {','.join(label)} chooses columns of an exchange file; this is none: leave it out")
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _exchange_file(path: Path) -> Path | None:
    """The exchange file that the path is, or the only .npz in the folder that it is."""
    if path.is_dir():
        inside = list(path.glob("*.npz"))
        return _exchange_file(inside[0]) if len(inside) == 1 else None
    if not zipfile.is_zipfile(path):
        return None
    names = Npz(path).names
    return path if ("offsets" in names or "label" in names) and ("delta" in names or "joints" in names) else None


def _open_folder(path: Path) -> Source:
    if (path / "manifest.json").is_file():
        raise InputError(f"{path}: is a packed set already (it has manifest.json); give its raw data to pack, or this folder to pretrain")
    if any((path / f"{part}_data_joint.npy").is_file() for part in PARTS):
        return open_agcn(path)
    if is_pku(path):
        return open_pku(path)
    places = find_places(path)
    if places:
        return open_ntu(path, places)
    arrays = sorted(path.glob("*.npz"))
    if len(arrays) == 1:
        return _open_file(arrays[0])
    inside = [*arrays, *(file.parent for file in sorted(path.glob("*/*_data_joint.npy")))]
    if inside:
        raise InputError(f"{path}: holds several sets; give one of them, {inside[0]} say")
    raise InputError(f"{path}: no data set in this folder; accepted are {ACCEPTED}")


def _open_file(path: Path) -> Source:
    if zipfile.is_zipfile(path):
        places = find_places(path)
        if places:
            return open_ntu(path, places)
        arrays = Npz(path)
        if any(f"x_{part}" in arrays for part in PARTS):
            return open_ctrgcn(path, arrays)
        raise InputError(f"{path}: a zip without a data set; accepted are {ACCEPTED}")
    if path.suffix in (".zip", ".npz"):
        raise InputError(f"{path}: unreadable zip (cut short or not a zip); fetch or write it again", reason="unreadable zip")
    if path.suffix == ".skeleton":
        raise InputError(f"{path}: one file; give the folder it lies in")
    raise InputError(f"{path}: not a data set; accepted are {ACCEPTED}")
