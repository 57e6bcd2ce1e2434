"""A dataclass becomes a command: typed flags with help and defaults, one line and exit code 2 for what a user can mend."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast, get_args, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jobs import InputError

Command = TypeVar("Command")
REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def comma_list(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[tuple[Any, ...]] | None:
    """`--streams joint,bone` for a field of type tuple[str, ...], `--drops 0.5,0.75` for one of numbers."""
    kind = next((kind for kind in (str, float, int) if get_args(info.type) == (kind, ...)), None)
    if kind is None:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B,...",
        instance_from_str=lambda words: tuple(kind(word.strip()) for word in words[0].split(",") if word.strip()),
        is_instance=lambda value: (
            isinstance(value, tuple) and all(isinstance(word, (float, int) if kind is float else kind) for word in value)
        ),
        str_from_instance=lambda value: [",".join(f"{word:g}" if kind is float else str(word) for word in value)],
    )


def parse(command: type[Command], argv: Sequence[str], about: str, default: Command | None = None) -> Command:
    """Build `command` from `argv`.

    Raises InputError for a flag that does not exist (naming the nearest and all valid ones); a value of the wrong type
    ends the program with tyro's own message and exit code 2."""
    kept, unknown = tyro.cli(
        command,
        args=list(argv),
        description=about,
        default=default,
        return_unknown_args=True,
        registry=REGISTRY,
        config=(tyro.conf.AvoidSubcommands,),
    )
    if unknown:
        valid = sorted(flags(command, default))
        word = unknown[0].split("=")[0].replace("_", "-")
        near = difflib.get_close_matches(word, valid, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"unknown flag {unknown[0]!r}; {hint}valid: {', '.join(valid)}")
    return cast(Command, kept)


def flags(command: type[Any], default: object | None = None, prefix: str = "--") -> list[str]:
    """Every flag of a command dataclass, nested ones with their prefix."""
    names: list[str] = []
    types = get_type_hints(command)
    for field in dataclasses.fields(command):
        value = getattr(default, field.name, None)
        nested = type(value) if dataclasses.is_dataclass(value) else types[field.name]
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(nested):
            inner = prefix if field.metadata.get("flat") else f"{prefix}{name}."
            names += flags(cast(type[Any], nested), value, inner)
        else:
            names.append(prefix + name)
    return names


def rooted(job: Command, paths: Sequence[str], names: Sequence[str] = ()) -> Command:
    """The job with these paths independent of the working directory; `names` are fields that hold a name, or else a file or folder."""
    found: dict[str, Any] = {field: path.resolve() for field in paths if (path := getattr(job, field)) is not None}
    for field in names:
        said = getattr(job, field)
        if said and Path(said).exists():
            found[field] = str(Path(said).resolve())
    changed: Command = dataclasses.replace(job, **found)  # type: ignore[type-var]
    return changed


def value_of(argv: Sequence[str], flag: str, otherwise: str) -> str:
    """The value of one flag, looked up before the real parsing (a recipe decides the defaults of the rest)."""
    found = otherwise
    for word, following in zip(argv, [*argv[1:], ""]):
        if word == flag:
            found = following
        elif word.startswith(flag + "="):
            found = word.split("=", 1)[1]
    return found


def without(argv: Sequence[str], flag: str) -> list[str]:
    """The words without this flag and its value."""
    kept, skip = [], False
    for word in argv:
        if not skip and word != flag and not word.startswith(flag + "="):
            kept.append(word)
        skip = word == flag
    return kept


def finish(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a script's main on the command line's words and exit as design asks: 0 done, 2 the user can mend it, 130 Ctrl-C."""
    try:
        code = main(sys.argv[1:])
    except InputError as error:
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        code = 141
    sys.stdout.flush()
    sys.exit(code)


def print_json(value: object) -> None:
    """One JSON document on standard output, for scripts."""
    print(json.dumps(_tidy(value), indent=1, default=str))


def _tidy(value: Any) -> Any:
    """Without the last digits that binary fractions leave: 59.2, not 59.199999999999996."""
    if isinstance(value, dict):
        return {key: _tidy(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(one) for one in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value
