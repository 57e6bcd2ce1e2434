"""encoder.safetensors: a query encoder with its statistics, and the configuration that builds it again. No pickle.

text.safetensors beside it is the caption branch that was trained with it."""

import json
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

import acsar
from acsar.ac_sar import ACSAR, ACSARConfig
from acsar.scdnet import SCDNetConfig
from acsar.types import Method
from jobs.codec import decode, encode
from jobs.run_folder import RunFolder, write_bytes
from shards.errors import InputError

KINDS: dict[str, type[SCDNetConfig]] = {"SCDNetConfig": SCDNetConfig, "ACSARConfig": ACSARConfig}


def save_encoder(path: Path, method: Method, config: SCDNetConfig, skeleton: str, facts: dict[str, str]) -> None:
    """Write the query encoder whole or not at all, with the configuration (its stream included) and `facts` as metadata."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in query(method).state_dict().items()}
    described = {"method": json.dumps({"kind": type(config).__name__, **encode(config)}), "skeleton": skeleton, "stream": config.stream}
    write_bytes(path, in_order(safetensors.torch.save(state, {**facts, **described})))


def save_text(path: Path, method: ACSAR, facts: dict[str, str]) -> None:
    """Write the caption branch whole or not at all, with the shape of the features that it takes: what scores captions, not skeletons."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in method.text.state_dict().items()}
    write_bytes(path, in_order(safetensors.torch.save(state, {**facts, "text_shape": json.dumps(method.text.shape)})))


def load_whole(folder: RunFolder) -> ACSAR:
    """The method of a finished stream, encoder and caption branch, in evaluation mode.

    Raises InputError when the stream has no caption branch, or its files are not those of one training."""
    described = config(folder.encoder)
    if not isinstance(described, ACSARConfig):
        raise InputError(f"{folder.path} was pretrained without captions ({type(described).__name__}): there is no caption to judge")
    try:
        with safetensors.safe_open(folder.text, "pt") as file:
            tokens, features = json.loads((file.metadata() or {})["text_shape"])
        state = safetensors.torch.load_file(folder.text)
    except FileNotFoundError:
        raise InputError(f"{folder.text} does not exist; runs that finished before it was kept have to be trained again") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{folder.text} is no caption branch ({error}); train the stream again") from None
    method = acsar.build(described, metadata(folder.encoder)["skeleton"], (tokens, features))
    assert isinstance(method, ACSAR)
    load_into(method, folder.encoder)
    try:
        method.text.load_state_dict(state)
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip()
        raise InputError(f"{folder.text} does not fit {folder.encoder} ({told}); train the stream again") from None
    return method.eval()


def in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted by name: the library writes them in any order; equal encoders shall be equal files."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    sorted_ = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    told = json.dumps(sorted_, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)  # tensors start at a multiple of 8
    return len(told).to_bytes(8, "little") + told + content[8 + size :]


def load_encoder(path: Path) -> Method:
    """The method that `save_encoder` wrote, with query and key encoder set to its weights, in evaluation mode.

    Raises InputError when the file is no such file."""
    method = acsar.build(config(path), skeleton=metadata(path)["skeleton"])
    load_into(method, path)
    return method.eval()


def config(path: Path) -> SCDNetConfig:
    """The configuration that the file was trained with, its stream included. Raises InputError as `load_encoder`."""
    described = json.loads(metadata(path)["method"])
    kind = KINDS.get(described.pop("kind", None))
    if kind is None:
        raise InputError(f"{path} holds an unknown kind of method; known: {', '.join(KINDS)}")
    return decode(kind, described)


def load_into(method: Method, path: Path) -> None:
    """Set query and key encoder to the file's weights. Raises InputError naming what does not fit."""
    metadata(path)
    state = safetensors.torch.load_file(path)
    for encoder in (query(method), key(method)):
        own = encoder.state_dict()
        wrong = sorted({n for n, t in own.items() if n not in state or state[n].shape != t.shape} | (set(state) - set(own)))
        if wrong:
            told = f"{len(wrong)} tensors differ, first {wrong[0]}"
            raise InputError(f"{path} does not fit this recipe ({told}); use the recipe it came from")
        encoder.load_state_dict(state)


def metadata(path: Path) -> dict[str, str]:
    """The file's metadata: method, stream, skeleton, recipe, content_id, step."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is no safetensors file ({error})") from None
    if "method" not in facts or "skeleton" not in facts:
        raise InputError(f"{path} was not written by pretraining (no configuration in it); give RUNS/NAME/STREAM/encoder.safetensors")
    return facts


def find(init: str, runs: Path, stream: str) -> Path:
    """The encoder.safetensors that --init RUN|FILE means: a file, a run's folder or its name. Raises InputError naming what was tried."""
    given = Path(init)
    if given.is_file():
        return given
    tried = [RunFolder(folder / stream).encoder for folder in (given, runs / init)]
    for path in tried:
        if path.is_file():
            return path
    raise InputError(f"--init {init}: neither a file, nor is there {' or '.join(str(path) for path in tried)}")


def with_stream(config: SCDNetConfig, stream: str) -> SCDNetConfig:
    """The method's configuration for one stream."""
    return replace(config, stream=stream)  # type: ignore[arg-type]


def query(method: Method) -> nn.Module:
    """The query encoder: what probes and other runs use."""
    encoder = method.query
    assert isinstance(encoder, nn.Module)
    return encoder


def key(method: Method) -> nn.Module:
    """The momentum encoder."""
    encoder = method.key
    assert isinstance(encoder, nn.Module)
    return encoder
