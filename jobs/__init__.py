"""What each job does: one frozen dataclass per stage, runnable in-process."""

from shards.errors import InputError
from shards.workers import cores

__all__ = ["InputError", "cores"]
