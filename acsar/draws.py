"""Random numbers without state: every draw is a pure function of (seed, epoch, sample key, view, counter).

A 64-bit counter is mixed by the splitmix64 finaliser (Steele, Lea, Flood 2014) in int64 tensor arithmetic, so the bits are the
same on every device, in every batch, on every rank.
"""

import hashlib

import torch
from torch import Tensor


def key_id(key: str) -> int:
    """The sample's number: first 8 bytes of sha256(key), big-endian, as a signed 64-bit integer."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)


def base(seed: int, epoch: int, ids: Tensor) -> Tensor:
    """Base of all draws of the samples `ids` [B] int64 in one epoch -> [B] int64. `seed` and `epoch` are below 2^63 in size."""
    start = _mix(_mix(torch.full_like(ids, seed) + _GAMMA) + epoch)
    return _mix(_mix(ids + _GAMMA) ^ start)


def uniform(draws: Tensor, view: int, count: int) -> Tensor:
    """`count` numbers per sample, draws [B] int64 -> [B,count] float32 in [0,1), multiples of 2^-24.

    Row i depends on draws[i] and `view` alone; a larger count only appends columns."""
    counters = torch.arange(1, count + 1, dtype=torch.int64, device=draws.device) + (view << 32)
    return _shift_right(_mix(draws[:, None] + counters * _GAMMA), 40).to(torch.float32) * 2.0**-24


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


# Odd constants of splitmix64, written as the signed integers that int64 arithmetic (modulo 2^64) needs.
_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _FIRST
    z = (z ^ _shift_right(z, 27)) * _SECOND
    return z ^ _shift_right(z, 31)
