"""Cluster profiles: what one cluster wants to hear, in a TOML file apart from the experiment. docs/cluster.toml shows every key."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from jobs import InputError

WANTS = {str: "text", int: "a whole number", float: "a number", tuple: "a list of texts", dict: "a table of texts"}
VARIABLE = "ACSAR_CLUSTER_PROFILE"  # names the profile where --cluster-profile does not
KEYS = {"partition", "account", "qos", "constraint", "reservation", "exclude", "time", "gpus-per-node", "cpus-per-task"}
DECIDED = {"array", "dependency", "error", "job-name", "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output"}
# options that do not go into [sbatch], and why
TAKEN = {
    **{option: f"the profile's own key {option.replace('-', '_')} says that" for option in KEYS},
    **dict.fromkeys(DECIDED | {"parsable", "wait", "wrap"}, "the suite decides that itself"),
    **dict.fromkeys(("requeue", "no-requeue"), "jobs must be requeued to survive pre-emption"),
    "mem": "the profile's own key mem_gb says that",
    "signal": "the profile's own key signal_s says that",
}


@dataclass(frozen=True)
class Profile:
    """What jobs ask of Slurm, and what their batch scripts do before the ranks start."""

    partition: str | None = None  # None here and below: the cluster's default
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclude: tuple[str, ...] = ()  # hosts that are kept out
    time: str = "1-00:00:00"  # limit of one job: minutes, or [D-]HH:MM:SS; longer training goes on in the next one
    gpus_per_node: int | None = None  # None: what most nodes of the partition have
    cpus_per_task: int | None = None  # None: the node's CPUs shared out among its ranks
    mem_gb: float | None = None  # of a node
    signal_s: int = 120  # how long before the limit jobs are told to save
    setup: tuple[str, ...] = ()  # lines of shell in the batch script, such as module load
    environment: dict[str, str] = field(default_factory=dict)  # variables of the jobs
    python: str | None = None  # the command that runs Python there, such as "apptainer exec --nv suite.sif python"; None: this very one
    srun: tuple[str, ...] = ()  # further options of srun
    sbatch: dict[str, str] = field(default_factory=dict)  # further options of sbatch
    at_once: int | None = None  # tasks of an array that may run at once


def read_profile(path: Path | None) -> Profile:
    """The profile in a TOML file; None: the one that $ACSAR_CLUSTER_PROFILE names, else the defaults.

    Raises InputError for a file that is missing or no TOML, and for what `profile_of` refuses."""
    if path is None:
        named = os.environ.get(VARIABLE)
        if not named:
            return Profile()
        path = Path(named)
    try:
        return profile_of(tomllib.loads(path.read_text()), str(path))
    except OSError as error:
        raise InputError(f"cluster profile {path}: {error.strerror}; docs/cluster.toml is one to start from") from None
    except ValueError as error:  # TOML's and UTF-8's errors are ValueErrors, and so is InputError
        raise error if isinstance(error, InputError) else InputError(f"cluster profile {path} is no TOML: {error}") from None


def profile_of(document: Mapping[str, Any], where: str) -> Profile:
    """A profile from its keys and values, as a file or `dataclasses.asdict` has them; `where` is named in errors.

    Raises InputError for an unknown key (naming the nearest and all valid ones), a wrong type or a value that cannot be."""
    hints = get_type_hints(Profile)
    for key in document:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"cluster profile {where}: unknown key {key!r}; {hint}valid: {', '.join(hints)}")
    profile = Profile(**{key: _value(key, hints[key], value, where) for key, value in document.items()})
    _check(profile, where)
    return profile


def minutes(profile: Profile) -> int:
    """The limit of one job in whole minutes, rounded up."""
    return -(-(_seconds(profile.time) or 0) // 60)


def _value(key: str, hint: Any, value: Any, where: str) -> Any:
    """The value in the field's type; a time may be written as a number of minutes."""
    kind = get_args(hint)[0] if get_origin(hint) is UnionType else get_origin(hint) or hint
    if value is None and get_origin(hint) is UnionType:
        return None
    if kind is str and (isinstance(value, str) or (key == "time" and type(value) in (int, float))):
        return str(value)
    if kind is int and type(value) is int:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is tuple and isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if kind is dict and isinstance(value, dict) and all(type(one) in (str, int) for one in value.values()):
        return {name: str(one) for name, one in value.items()}
    raise InputError(f"cluster profile {where}: {key} = {value!r}: {WANTS[kind]} is wanted")


def _check(profile: Profile, where: str) -> None:
    """Refuse what no cluster could take."""
    least = {"gpus_per_node": 0, "cpus_per_task": 1, "mem_gb": 0.001, "signal_s": 1, "at_once": 1}
    for key, bound in least.items():
        value = getattr(profile, key)
        if value is not None and value < bound:
            raise InputError(f"cluster profile {where}: {key} = {value}: at least {bound} is needed")
    limit = _seconds(profile.time)
    if limit is None:
        raise InputError(f'cluster profile {where}: time = {profile.time!r}: minutes (90) or "[D-]HH:MM:SS" ("1-12:00:00") are wanted')
    if profile.signal_s >= limit:
        raise InputError(f"cluster profile {where}: signal_s = {profile.signal_s} is not shorter than time = {profile.time!r}")
    for name in profile.environment:
        if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is None:
            raise InputError(f"cluster profile {where}: environment.{name}: that is no name of a variable")
    for name in profile.sbatch:
        option = name.replace("_", "-")
        if option in TAKEN:
            raise InputError(f"cluster profile {where}: sbatch.{name}: {TAKEN[option]}")


def _seconds(time: str) -> int | None:
    """Minutes or [D-]HH:MM:SS in seconds; None for anything else, such as HH:MM, which Slurm would read as minutes and seconds."""
    if re.fullmatch(r"[1-9]\d*", time, re.ASCII):
        return 60 * int(time)
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)", time, re.ASCII)
    if match is None:
        return None
    days, hours, minutes, rest = (int(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest or None
