"""What is probed: the finished encoders of a run, or weights that somebody published, and the packed set that goes with them."""

import dataclasses
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acsar import interop
from acsar.scdnet import SCDNet, SCDNetConfig
from acsar.streams import STREAMS, Stream
from acsar.types import Method
from jobs import weights
from jobs.run_folder import RunFolder, read_json
from shards import protocols
from shards.errors import InputError
from shards.stream import PackedSet, Record


@dataclass(frozen=True)
class Target:
    """One encoder to be probed."""

    stream: Stream
    method: Method
    config: SCDNetConfig
    skeleton: str
    weights: Path
    facts: dict[str, Any]  # recipe, supervision and whatever else its run said
    seed: int | None  # that its weights were drawn from before pretraining; None = unknown
    transductive: bool
    transfer: str = ""  # name of the set that it was pretrained on, where it is another one
    unchecked: bool = False  # nobody could look whether that other set has test clips of this one


def find_run(run: Path, runs: Path | None = None) -> Path:
    """The folder that --run means: a path, or a name below the folder of runs. Raises InputError naming what was tried."""
    tried = list(dict.fromkeys([run, (runs or default_runs()) / run]))
    for folder in tried:
        if streams_in(folder):
            return folder
    raise InputError(f"--run {run}: no run in {' or '.join(str(folder) for folder in tried)}; give RUNS/NAME as pretrain.py named it")


def default_runs() -> Path:
    """$ACSAR_RUNS, else ./runs."""
    return Path(os.environ.get("ACSAR_RUNS", "runs"))


def check_streams(names: Sequence[str]) -> None:
    """Raise InputError for a name that is no stream."""
    unknown = [name for name in names if name not in STREAMS]
    if unknown:
        raise InputError(f"unknown stream {unknown[0]!r}; one of {', '.join(STREAMS)}")


def streams_in(run: Path) -> list[Stream]:
    """The streams that have a configuration in RUNS/NAME."""
    return [name for name in STREAMS if RunFolder(run / name).config.is_file()]


def streams_of(run: Path) -> list[Stream]:
    """The streams that the run was started with. Raises InputError naming one that has not begun."""
    found = streams_in(run)
    asked = read_json(RunFolder(run / found[0]).config)["job"]["streams"]
    return [name for name in STREAMS if name in asked or name in found]


def finished(run: Path, stream: str) -> dict[str, Any]:
    """config.json of a stream whose training is over. Raises InputError for one that never began or never finished."""
    folder = RunFolder(run / stream)
    if not folder.config.is_file():
        raise InputError(f"{run} has no stream {stream}; it has {', '.join(streams_in(run)) or 'none'}")
    if "from_encoder_sha256" in read_json(folder.config)["facts"]:
        raise InputError(f"{run} is a trial of fine-tuning, whose result.json is its evaluation; give the run that it began from")
    if not (folder.result.is_file() and folder.encoder.is_file()):
        raise InputError(f"{folder.path} has not finished pretraining; give its pretrain command again, or leave it out of --streams")
    return dict(read_json(folder.config))


def open_set(data: Path, content_id: str, run: Path) -> PackedSet:
    """The packed set of a run. Raises InputError when another set lies there."""
    packed = PackedSet.open(data)
    if packed.content_id != content_id:
        ids = f"{data} holds set {packed.content_id[:12]}, {run} was pretrained on {content_id[:12]}"
        raise InputError(f"{ids}; name the run's own set with --data")
    return packed


def load_weights(path: Path, streams: Sequence[str], packed: PackedSet, heads: int) -> Target:
    """An encoder.safetensors or an official SCD-Net checkpoint (loaded without running code from it).

    Raises InputError when it is neither, or made for another stream or skeleton."""
    skeleton = packed.manifest["skeleton"]
    if path.suffix == ".safetensors":
        facts = weights.metadata(path)
        if (streams and streams[0] != facts["stream"]) or facts["skeleton"] != skeleton:
            asked = f"{' '.join(streams) or facts['stream']} of {skeleton}"
            raise InputError(f"{path} is a {facts['stream']} encoder of skeleton {facts['skeleton']}, not for {asked}; give another file")
        method = weights.load_encoder(path)
        config = config_of(method)
        return Target(config.stream, method, config, skeleton, path, dict(facts), None, False)
    stream: Stream = next((name for name in STREAMS if name in streams), "joint")
    state = official_state(path)
    try:
        method = interop.load_scdnet(state, heads=heads)
    except ValueError as error:
        raise InputError(f"{path} does not fit SCD-Net ({error}); check the file, or give --heads") from None
    assert isinstance(method, SCDNet)
    method.config = dataclasses.replace(method.config, stream=stream)
    return Target(stream, method.eval(), method.config, skeleton, path, {"recipe": "official weights"}, None, False)


def official_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint, by name, read with weights_only. Raises InputError when there are none."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"--weights {path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(f"{path} is no checkpoint that can be read without running code from it ({reason})") from None
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict; give an SCD-Net checkpoint or an encoder.safetensors")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def of_run(run: Path, streams: Sequence[str], data: Path | None, protocol: str, transductive: bool) -> tuple[PackedSet, list[Target], str]:
    """The run's packed set, its encoders and the protocol.

    Raises InputError for streams that have not finished or differ in data, protocol or seed, for another data set, and for another
    protocol than the run's, unless it is asked for as transductive."""
    configs = configurations(run, streams)
    first = next(iter(configs.values()))
    trained = first["facts"]["protocol"]
    wanted = checked_protocol(protocol, trained, transductive, run)
    packed = open_set(data or Path(first["job"]["data"]), first["facts"]["content_id"], run)
    return packed, [_target(run, name, config, packed, wanted != trained) for name, config in configs.items()], wanted


def of_transfer(run: Path, streams: Sequence[str], to: Path, protocol: str, transductive: bool) -> tuple[PackedSet, list[Target], str]:
    """Another packed set than the run's, the run's encoders, and a protocol of that set: the one asked for, else the run's own where the
    set can serve it, else the only one that it can serve.

    Raises InputError as `of_run`, for the run's own set, another skeleton, and a set whose test clips the encoders were trained on,
    unless it is asked for as transductive."""
    configs = configurations(run, streams)
    first = next(iter(configs.values()))
    packed, name = PackedSet.open(to), Path(first["job"]["data"]).name
    if packed.content_id == first["facts"]["content_id"]:
        raise InputError(f"--transfer {to} is the set that {run} was pretrained on; leave --transfer out")
    wanted = transfer_protocol(packed, protocol, first["facts"]["protocol"])
    seen = seen_before(packed, wanted, first)
    if seen and not transductive:
        told = f"{len(seen)} test clips of {to} by {wanted}, for example {seen[0]}, are training clips of {name}"
        raise InputError(f"{told}, which {run} was pretrained on; probe another set, or add --transductive")
    targets = [_target(run, stream, config, packed, bool(seen)) for stream, config in configs.items()]
    return packed, [dataclasses.replace(target, transfer=name, unchecked=seen is None) for target in targets], wanted


def protocol_for(run: Path, transfer: Path | None) -> str:
    """The protocol by which a run is probed where none is asked for. Raises InputError where another set leaves it open."""
    trained = str(read_json(RunFolder(run / streams_in(run)[0]).config)["facts"]["protocol"])
    return trained if transfer is None else transfer_protocol(PackedSet.open(transfer), "", trained)


def transfer_protocol(packed: PackedSet, asked: str, trained: str) -> str:
    """The protocol of another set than the run's. Raises InputError where it is not clear."""
    served = protocols.served(packed.samples, packed.manifest["benchmark"])
    if asked or trained in served:
        return asked or trained
    if len(served) != 1:
        raise InputError(f"--transfer needs --protocol; {packed.path} can serve {', '.join(served) or 'none'}")
    return served[0]


def seen_before(packed: PackedSet, protocol: str, config: dict[str, Any]) -> list[str] | None:
    """Keys of the protocol's test clips that are training clips of another set's run, by its config.json: those of one key, subject,
    camera, set-up and length. None where that set is no longer in its place."""
    folder, facts = Path(config["job"]["data"]), config["facts"]
    if not (folder / "manifest.json").is_file() or (source := PackedSet.open(folder)).content_id != facts["content_id"]:
        return None

    def of(record: Record) -> tuple[str, int, int, int, int]:
        return record.key, record.subject, record.camera, record.setup, record.frames

    trained = set(protocols.parts(source.samples, facts["protocol"], source.manifest["benchmark"])[0])
    known = {of(record) for record in source.samples if record.key in trained}
    test = set(protocols.parts(packed.samples, protocol, packed.manifest["benchmark"])[1])
    return sorted(record.key for record in packed.samples if record.key in test and of(record) in known)


def configurations(run: Path, streams: Sequence[str]) -> dict[Stream, dict[str, Any]]:
    """config.json of a run's finished streams, joint first. Raises InputError for one that has not finished, and for streams that differ
    in data, protocol or seed."""
    names = [name for name in STREAMS if name in streams] or streams_of(run)
    configs = {name: finished(run, name) for name in names}
    first = configs[names[0]]
    for name, config in configs.items():
        for part, fact in (("facts", "content_id"), ("facts", "protocol"), ("job", "seed")):
            if config[part][fact] != first[part][fact]:
                raise InputError(f"{run}: streams {names[0]} and {name} differ in {fact}; they are no comparison, probe them one by one")
    return configs


def _target(run: Path, stream: Stream, config: dict[str, Any], packed: PackedSet, transductive: bool) -> Target:
    """A run's encoder for a packed set. Raises InputError when their skeletons differ."""
    path, skeleton = RunFolder(run / stream).encoder, packed.manifest["skeleton"]
    trained = weights.metadata(path)["skeleton"]
    if trained != skeleton:
        raise InputError(f"{path} is an encoder of skeleton {trained}, {packed.path} has skeleton {skeleton}; give a set of {trained}")
    method, facts = weights.load_encoder(path), {"recipe": config["job"]["recipe"], **config["facts"]}
    return Target(stream, method, config_of(method), skeleton, path, facts, config["job"]["seed"], transductive)


def of_weights(
    path: Path, streams: Sequence[str], data: Path, protocol: str, transductive: bool, heads: int
) -> tuple[PackedSet, list[Target], str]:
    """The packed set, one encoder from a file, and the protocol (which may be left out where the set can serve only one)."""
    if len(streams) > 1:
        raise InputError(f"--weights holds one encoder, so --streams names one stream, not {', '.join(streams)}")
    packed = PackedSet.open(data)
    served = protocols.served(packed.samples, packed.manifest["benchmark"])
    if not protocol and len(served) != 1:
        raise InputError(f"--weights needs --protocol; {data} can serve {', '.join(served) or 'none'}")
    target = load_weights(path, streams, packed, heads)
    wanted = protocol or served[0]
    trained = target.facts.get("protocol", wanted) if target.facts.get("content_id") == packed.content_id else wanted
    checked_protocol(wanted, trained, transductive, path)
    return packed, [dataclasses.replace(target, transductive=trained != wanted)], wanted


def checked_protocol(asked: str, trained: str, transductive: bool, where: Path) -> str:
    """The protocol to probe by. Raises InputError for another one than that of pretraining, unless transductive."""
    if asked and asked != trained and not transductive:
        raise InputError(
            f"{where} was pretrained by protocol {trained}, so by {asked} it may have seen test clips; "
            "leave --protocol out, or add --transductive"
        )
    return asked or trained


def config_of(method: Method) -> SCDNetConfig:
    """The configuration that builds the same network again."""
    assert isinstance(method, SCDNet)
    return method.config
