"""One encoder and its two reference points as frozen features of a packed set: what every evaluation without training starts from."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from jobs import codec, environment, features
from jobs.engine import Ranks
from jobs.features import Features
from jobs.targets import Target
from shards.errors import InputError
from shards.manifest import sha256_of
from shards.stream import PackedSet

REFERENCES = ".references"  # below the folder of runs: what raw clips and random encoders come to, computed once
Progress = Callable[[int, int], None]


def alone() -> Ranks:
    """This process as the only rank."""
    return Ranks(0, 1, environment.device(), "", "")


@dataclass(frozen=True)
class Frozen:
    """Features of all clips of `packed` by one encoder (kept in `folder`/features), by the same network untrained (kept in `references`,
    for every run of this recipe and seed), and by no network.

    train: the protocol's training keys, which fill the random encoder's norm statistics; seed: draws its weights where the target does
    not know the seed of its pretraining; given: a folder with STREAM.npz extracted elsewhere, taken in place of the encoder's pass."""

    packed: PackedSet
    target: Target
    protocol: str
    train: Sequence[str]
    folder: Path
    references: Path
    seed: int = 0
    given: Path | None = None
    ranks: Ranks = field(default_factory=alone)

    @property
    def keys(self) -> list[str]:
        """Every clip of the set, in the order of the files."""
        return sorted(record.key for record in self.packed.samples)

    def extract(self, progress: Progress = lambda done, total: None) -> None:
        """Leave the files of `pretrained` and `random`; all ranks have to call it. `progress` hears of clips done in each of the two."""
        target, device = self.target, self.ranks.device
        if self.given is None:
            method = target.method.to(device)
            own = lambda: _counted(features.shared_out(method.encode, self.packed, self.keys, self.ranks), progress, len(self.keys))
            features.kept(self._own(), self.keys, self._own_spec(), own, self.ranks)
        untrained = lambda: _counted(self._random_rows(), progress, len(self.keys))
        features.kept(self._random(), self.keys, self._random_spec(), untrained, self.ranks)

    def pretrained(self) -> Features:
        """The encoder's features. Raises InputError where those that were given are of another encoder or set."""
        path = self._own() if self.given is None else self.given / f"{self.target.stream}.npz"
        if not path.is_file():
            raise InputError(f"{path} does not exist: frozen features of stream {self.target.stream} are kept in STREAM.npz")
        return features.read(path, self.encoder, self.packed.content_id)

    def random(self) -> Features:
        """Features of the network as it was before pretraining."""
        return features.read(self._random())

    @contextlib.contextmanager
    def raw(self) -> Iterator[Features]:
        """The clips themselves: 64 frames, flattened. They are larger than features and quickly made, so the file goes when it is left."""
        spec = {"kind": "raw", **self._set(), "crop": features.CROP}
        encode = features.raw_encode(self.target.stream, self.target.skeleton)
        self.references.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".raw-", dir=self.references) as folder:
            path = Path(folder) / f"{self.target.stream}.npz"
            features.write(path, self.keys, spec, features.encoded(encode, self.packed, self.keys, self.ranks.device))
            yield features.read(path)

    @cached_property
    def encoder(self) -> str:
        """sha256 of the encoder's file, which is large: read once."""
        return sha256_of(self.target.weights)

    @property
    def drawn(self) -> int:
        """The seed of the random encoder's weights: that of pretraining, where it is known."""
        return self.seed if self.target.seed is None else self.target.seed

    @property
    def made_by(self) -> dict[str, Any]:
        """What the random encoder is."""
        config = self.target.config
        method = {"kind": type(config).__name__, **codec.encode(config)}
        return {"method": method, "weights": self.drawn, "protocol": self.protocol, "crop": features.CROP}

    def _set(self) -> dict[str, Any]:
        return {"content_id": self.packed.content_id, "stream": self.target.stream}

    def _own(self) -> Path:
        return features.place(self.folder, self.packed.content_id, self.target.stream)

    def _own_spec(self) -> dict[str, Any]:
        return {**self._set(), "encoder": self.encoder, "crop": features.CROP}

    def _random(self) -> Path:
        return self.references / f"random-{self.target.stream}-{features.fingerprint(self._random_spec())}.features.npz"

    def _random_spec(self) -> dict[str, Any]:
        return {"kind": "random", **self._set(), **self.made_by}

    def _random_rows(self) -> Iterable[Tensor]:
        t, device = self.target, self.ranks.device
        method = features.random_encoder(t.config, t.skeleton, self.packed, self.train, self.drawn, device, self.ranks)
        return features.shared_out(method.encode, self.packed, self.keys, self.ranks)


def _counted(rows: Iterable[Tensor], progress: Progress, total: int) -> Iterator[Tensor]:
    done = 0
    for block in rows:
        yield block
        done += len(block)
        progress(done, total)
