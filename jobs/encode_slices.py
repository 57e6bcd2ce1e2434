"""Features of texts made slice by slice: by whatever makes them, resumed inside a slice, each row checked by its sum.

OUT/plan.jsonl                 written once: the encoder (the first line), then the distinct texts, sorted by their sha256
OUT/attempts/0007.0002.f16     features that the second process on slice 0007 has made, float16, row after row
OUT/attempts/0007.0002.jsonl   which text each row is of (jobs/caption_slices.py)
OUT/slices/0007.jsonl          the finished slice
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jobs import caption_slices as slices
from jobs.text import TextStore
from shards.errors import InputError

Progress = Callable[[int, int], None]
"""Called with (done, total) items."""


class Encoded(NamedTuple):
    """Features [L,D] float16 of one text, and how many of the L positions are valid, start and end among them."""

    features: NDArray[np.float16]
    tokens: int


class Encoder(Protocol):
    """Texts in, features out. `name` changes whenever the features could."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def __call__(self, texts: Sequence[str]) -> list[Encoded]: ...


@dataclass
class Work:
    """One process's work on the slices of a plan. The encoder is loaded when the first text needs it, once.

    load     makes the encoder
    earlier  features by the same encoder: what they have is taken over
    batch    texts that are encoded at once"""

    plan: slices.Plan
    load: Callable[[], Encoder]
    earlier: TextStore | None
    batch: int
    encoder: Encoder | None = None

    def slice(self, name: str, progress: Progress) -> dict[str, Any]:
        """Encode what is missing of a slice, and finish it.

        Raises InputError when another process has taken the slice over, and what `load` raises."""
        out, entries = self.plan.out, slices.clips_of(self.plan, name)
        if slices.is_finished(out, name):
            return {"slice": name, "captions": len(entries), "encoded": 0}
        attempt = slices.Attempt.begin(out, name, tag=os.environ.get("ACSAR_TAG", ""))
        try:
            todo = [entry for entry in entries if entry["key"] not in attempt.known]
            progress(len(entries) - len(todo), len(entries))
            encoded = 0
            with _file(out, f"{name}.{attempt.number:04d}").open("wb") as file:
                for at in range(0, len(todo), self.batch):
                    encoded += self._append(attempt, file, todo[at : at + self.batch])
                    progress(len(attempt.known), len(entries))
            if not slices.is_finished(out, name):
                attempt.finish([entry["key"] for entry in entries])
        finally:
            attempt.close()
        return {"slice": name, "captions": len(entries), "encoded": encoded}

    def _append(self, attempt: slices.Attempt, file: BinaryIO, batch: Sequence[slices.Record]) -> int:
        """Features first, then the lines that speak of them; how many were encoded, and not taken from earlier ones."""
        made, new = self._encode([str(entry["text"]) for entry in batch])
        records = []
        try:
            for entry, one in zip(batch, made, strict=True):
                data = np.ascontiguousarray(one.features, np.float16).tobytes()
                place = {"attempt": attempt.number, "at": file.tell(), "shape": list(one.features.shape)}
                records.append({"key": entry["key"], **place, "tokens": one.tokens, "sha256": hashlib.sha256(data).hexdigest()})
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot write {file.name}: {error.strerror}; make room, and give the same command again") from error
        attempt.append(records)
        return new

    def _encode(self, texts: Sequence[str]) -> tuple[list[Encoded], int]:
        """Features of some texts in order, and how many of them had to be made."""
        lacking = list(texts) if self.earlier is None else [text for text in texts if self.earlier.lacking([text])]
        if lacking and self.encoder is None:
            self.encoder = self.load()
        made = dict(zip(lacking, self.encoder(lacking), strict=True)) if lacking and self.encoder is not None else {}
        if self.earlier is None:
            return [made[text] for text in texts], len(lacking)
        taken = self.earlier
        return [made[text] if text in made else Encoded(taken(text), taken.tokens(text)) for text in texts], len(lacking)


def rows(plan: slices.Plan) -> Iterator[tuple[str, NDArray[np.float16], int]]:
    """(text, features, valid positions) of every text in the plan's order. InputError for a row that is not what its line says."""
    for name in plan.names:
        texts = {str(entry["key"]): str(entry["text"]) for entry in slices.clips_of(plan, name)}
        for record in slices.read_slice(plan.out, name):
            shape = (int(record["shape"][0]), int(record["shape"][1]))
            path = _file(plan.out, f"{name}.{int(record['attempt']):04d}")
            data = b""
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(int(record["at"]))
                data = file.read(2 * shape[0] * shape[1])
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                again = f"remove {slices.final(plan.out, name)} and {plan.out / slices.ATTEMPTS}/{name}.*, and give the same command again"
                raise InputError(f"{path} is damaged (at byte {record['at']}); {again}")
            yield texts[str(record["key"])], np.frombuffer(data, np.float16).reshape(shape), int(record["tokens"])


def shape_of(plan: slices.Plan) -> tuple[int, int]:
    """[L,D] of the features of a finished plan."""
    length, width = slices.read_slice(plan.out, plan.names[0])[0]["shape"]
    return int(length), int(width)


def remove_rows(plan: slices.Plan) -> None:
    """Give the space of the slices' features back, once they are in a store."""
    for path in (plan.out / slices.ATTEMPTS).glob("*.f16"):
        path.unlink()


def _file(out: Path, attempt: str) -> Path:
    return out / slices.ATTEMPTS / f"{attempt}.f16"
