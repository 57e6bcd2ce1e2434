"""What each job does: one frozen dataclass per stage, callable in any process."""

from shards.errors import InputError

__all__ = ["InputError"]
