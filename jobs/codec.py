"""Jobs as plain JSON and back: what a worker process is given and what config.json holds. No pickle."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from shards.errors import InputError

Job = TypeVar("Job")


UNIONS = (typing.Union, types.UnionType)


def encode(value: Any) -> Any:
    """A dataclass as JSON values; where a field admits several dataclasses, the value says its "kind" (class name)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _with_kind(item, hints[name]) for name, item in fields}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(kind: type[Job], value: dict[str, Any]) -> Job:
    """The dataclass that `encode` described. Raises InputError naming an unknown or a missing field."""
    job: Job = _decode(kind, value)
    return job


def _with_kind(value: Any, hint: Any) -> Any:
    several = dataclasses.is_dataclass(value) and typing.get_origin(hint) in UNIONS
    return {"kind": type(value).__name__, **encode(value)} if several else encode(value)


def _decode(wanted: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in UNIONS:
        return _decode(_member(arguments, value), value)
    if dataclasses.is_dataclass(wanted):
        return _dataclass(wanted, value)
    if origin is tuple:
        inner = arguments if len(arguments) != 2 or arguments[1] is not Ellipsis else arguments[:1] * len(value)
        return tuple(_decode(kind, item) for kind, item in zip(inner, value))
    if wanted is Path:
        return Path(value)
    return float(value) if wanted is float else value


def _member(choices: tuple[Any, ...], value: Any) -> Any:
    """Which alternative of a union describes the value."""
    if value is None:
        return type(None)
    if isinstance(value, dict):
        for choice in choices:
            if dataclasses.is_dataclass(choice) and getattr(choice, "__name__", "") == value.get("kind"):
                return choice
        raise InputError(f"unknown kind {value.get('kind')!r}; one of {', '.join(getattr(c, '__name__', str(c)) for c in choices)}")
    return next(choice for choice in choices if choice is not type(None))


def _dataclass(wanted: Any, value: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(wanted)
    fields = {f.name: f for f in dataclasses.fields(wanted)}
    unknown = sorted(set(value) - set(fields) - {"kind"})
    needed = (name for name, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
    missing = sorted(set(needed) - set(value))
    if unknown or missing:
        raise InputError(f"{wanted.__name__}: unknown fields {unknown}, missing fields {missing}; it has {', '.join(fields)}")
    return wanted(**{name: _decode(hints[name], item) for name, item in value.items() if name in fields})
