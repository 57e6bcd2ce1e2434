"""Is a run folder this job's? The same command goes on with it; another experiment under the same name is refused, naming the fields."""

from collections.abc import Mapping
from typing import Any

from jobs import failures
from jobs.codec import encode
from jobs.run_folder import RunFolder, read_json
from shards.errors import InputError

# what may change between two calls of the same run (data and encoders are compared by id); all else is another experiment
MAY_DIFFER = (
    *("data", "transfer", "run", "runs", "name", "streams", "nodes", "workers", "lr_rule"),
    *("stop_after", "save_every", "keep_last", "keep_every", "keep_best"),
)

# what jobs did before there was a choice
BEFORE = {"captions": "first"}

# facts of config.json that belong to the experiment, and what they are called
IDS = {"content_id": "content id of the data", "from_encoder_sha256": "sha256 of the encoder that it starts from"}


def finished(folder: RunFolder, job: Any, ids: Mapping[str, str]) -> dict[str, Any]:
    """What result.json says of the folder's run, {} before its end. Raises InputError when it is a run of another configuration."""
    same_configuration(folder, job, ids)
    return dict(read_json(folder.result)) if folder.result.is_file() else {}


def same_configuration(folder: RunFolder, job: Any, ids: Mapping[str, str]) -> None:
    """Raise InputError naming the fields in which the folder's run differs from this job and its ids, apart from MAY_DIFFER."""
    if not folder.config.is_file():
        return
    config = read_json(folder.config)
    then, now = ({IDS[name]: found.get(name) for name in ids} for found in (config["facts"], ids))
    told = differences({**config["job"], **then}, {**encode(job), **now})
    if told:
        raise InputError(f"{folder.path} belongs to another configuration: {told}; give another --name or the old values")


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, the fields in which two jobs (as JSON) are not the same experiment; "" when they are."""
    then, now = flat(then), flat(now)
    then = {**{name: value for name, value in BEFORE.items() if name in now}, **then}
    names = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name) and name not in MAY_DIFFER]
    return ", ".join(f"{name} was {then.get(name)!r} and is {now.get(name)!r}" for name in names)


def submission() -> dict[str, str]:
    """Which start of the ranks, in which job of a scheduler, this is; empty words outside one."""
    return {"tag": failures.tag(), "job": failures.job()}


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{field: value} of nested JSON, nested names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
