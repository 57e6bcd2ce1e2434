"""What each job does: one frozen dataclass per stage, runnable in-process."""
