"""The one exception that means "the user can mend this".

Launch scripts print it as one line and exit with code 2; every other exception is a bug and keeps its traceback.
"""


class InputError(ValueError):
    """Something a user caused. The message names the value, the file and the way out, in one line.

    reason is a short name for the kind ("no person", "truncated", "not finite"), by which packing counts what it drops.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, reason)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])
