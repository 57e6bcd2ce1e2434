"""What each job does: one frozen dataclass per stage, runnable in-process."""

from shards.errors import InputError

__all__ = ["InputError"]
