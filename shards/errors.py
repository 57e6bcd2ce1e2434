"""The one exception that means "the user can mend this".

Launch scripts print it as one line and exit with code 2; every other exception is a bug and keeps its traceback.
"""


class InputError(ValueError):
    """Something a user caused. The message names the value, the file and the way out, in one line."""
