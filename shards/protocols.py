"""Which samples train and which test, as functions of what is known about each sample; and which training subjects are held aside."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias, get_args

from shards import facts
from shards.errors import InputError

ProtocolName: TypeAlias = Literal["split", "xsub", "xview", "xset"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)


class Described(Protocol):
    """What a protocol may look at; Sample and the records of a packed set have it."""

    @property
    def key(self) -> str: ...
    @property
    def subject(self) -> int: ...
    @property
    def camera(self) -> int: ...
    @property
    def setup(self) -> int: ...
    @property
    def split(self) -> str: ...


def parts(samples: Sequence[Described], protocol: str, benchmark: str) -> tuple[list[str], list[str]]:
    """(training keys, test keys), each sorted, without a common key.

    "split" is the source's own column; "xsub", "xview" and "xset" follow the benchmark's rule (shards.facts), or the lists that
    the source ships (a split of the form "xsub:train xview:test"; who is on no list is in neither part). InputError, with the protocols
    that this set can serve, for any other one.
    """
    divided = _divide(samples, protocol, benchmark)
    if divided is None:
        known = ", ".join(served(samples, benchmark)) or "none: its samples lack split, subject, camera and set-up"
        raise InputError(f"protocol {protocol!r} is not one that this {benchmark} set can serve; it can serve {known}")
    return divided


def served(samples: Sequence[Described], benchmark: str) -> list[ProtocolName]:
    """The protocols that divide these samples into two parts that are not empty."""
    return [name for name in PROTOCOLS if _divide(samples, name, benchmark) is not None]


def _divide(samples: Sequence[Described], protocol: str, benchmark: str) -> tuple[list[str], list[str]] | None:
    listed = any(f"{protocol}:" in s.split for s in samples)
    rule = (lambda s: _listed(s.split, protocol)) if listed else _rule(protocol, benchmark)
    if rule is None:
        return None
    said = [(s.key, rule(s)) for s in samples]
    train, test = (sorted(key for key, part in said if part == which) for which in ("train", "test"))
    return (train, test) if train and test and (listed or all(part for _, part in said)) else None


def _listed(split: str, protocol: str) -> str:
    return next((word.partition(":")[2] for word in split.split() if word.startswith(f"{protocol}:")), "")


def _rule(protocol: str, benchmark: str) -> Callable[[Described], str] | None:
    """A function from sample to "train", "test" or "" (not known), or None where the benchmark has no such protocol."""
    subjects, cameras = facts.TRAIN_SUBJECTS.get(benchmark), facts.TRAIN_CAMERAS.get(benchmark)
    if protocol == "split":
        return lambda s: s.split if s.split in ("train", "test") else ""
    if protocol == "xsub" and subjects is not None:
        return lambda s: _part(s.subject, s.subject in subjects)
    if protocol == "xview" and cameras is not None:
        return lambda s: _part(s.camera, s.camera in cameras)
    if protocol == "xset" and benchmark in facts.EVEN_SETUPS:
        return lambda s: _part(s.setup, s.setup % 2 == 0)
    return None


def _part(number: int, trains: bool) -> str:
    if number < 1:
        return ""
    return "train" if trains else "test"


def held_aside(train: Sequence[Described], seed: int, share: float = 0.1) -> list[str]:
    """Keys, sorted, of the training subjects that choices are made on: `share` of them, one at least, never all.

    Which ones is a function of the sorted ids and the seed (an order by hash). Where fewer than two subjects are known, samples are held
    aside in their place. InputError where fewer than two samples train.
    """
    if len(train) < 2:
        raise InputError(f"{len(train)} training samples: none can be held aside; train on two or more")
    subjects = {s.key: str(s.subject) for s in train}
    if len(set(subjects.values())) < 2:
        subjects = {s.key: s.key for s in train}
    ids = sorted(set(subjects.values()))
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    chosen = set(sorted(ids, key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())[:count])
    return sorted(key for key, subject in subjects.items() if subject in chosen)
