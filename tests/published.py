"""The published SCD-Net code's reference outputs under tests/data: weights made by rule, inputs, and the method that holds them."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acsar.interop import load_scdnet
from acsar.scdnet import SCDNet, SCDNetConfig
from acsar.skeleton import NTU25

DATA = Path(__file__).parent / "data"


def golden() -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The settings and the arrays."""
    with np.load(DATA / "scdnet_open.npz") as arrays:
        return json.loads((DATA / "scdnet_open.json").read_text()), dict(arrays)


def weights(spec: dict[str, Any]) -> dict[str, Tensor]:
    """The official encoder_q state dict, every tensor made from its name."""
    return {name: torch.from_numpy(_tensor(spec["salt"], name, shape)) for name, shape in spec["shapes"].items()}


def _tensor(salt: str, name: str, shape: list[int]) -> NDArray[np.float32]:
    n = _rng(salt, name).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif name.endswith(("running_mean", "bias", "alpha")):
        n = 0.1 * n
    elif n.ndim == 1:
        n = 1 + 0.1 * n
    elif name.endswith("PA"):
        n = 0.3 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:]))
    return np.asarray(n, np.float32)


def inputs(spec: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The query's and the key's clips [B,3,64,25,2]."""
    rng = _rng(spec["salt"], "input")
    q, k = (torch.from_numpy((0.5 * rng.standard_normal((spec["batch"], 3, 64, 25, 2))).astype(np.float32)) for _ in range(2))
    return q, k


def training_method(spec: dict[str, Any]) -> SCDNet:
    """SCD-Net ready for the reference's training steps: its weights, its queues, no dropout, in training mode."""
    config = SCDNetConfig(
        width=spec["hidden"], heads=spec["heads"], out=spec["out"], queue=spec["queue"], tau=spec["tau"], ema=spec["momentum"], dropout=0.0
    )
    method = SCDNet(config, NTU25, seed=0)
    loaded = load_scdnet(weights(spec), spec["heads"])
    for part in (method.query, method.key):
        part.load_state_dict(loaded.query.state_dict())
    for kind, queue in (("t", method.queue_t), ("s", method.queue_s), ("i", method.queue_g)):
        start = _rng(spec["salt"], f"{kind}_queue").standard_normal((spec["out"], spec["queue"])).astype(np.float32)
        queue.keys.copy_(torch.nn.functional.normalize(torch.from_numpy(start), dim=0).T)
    return method.train()


def _rng(salt: str, name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{salt}:{name}".encode()))
