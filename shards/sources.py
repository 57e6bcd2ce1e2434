"""Opening raw data: look at what a path holds and pick the reader."""

from collections.abc import Sequence
from pathlib import Path

from shards.errors import InputError
from shards.samples import Clip, Sample, Source

__all__ = ["Clip", "Sample", "Source", "open_source"]


def open_source(path: Path | str, label: Sequence[str] = ("label",)) -> Source:
    """The data set at `path`; `label` names the columns of an exchange file whose cross product is the class."""
    raise InputError(f"{path}: no reader for what is there")
