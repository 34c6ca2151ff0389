"""The error of a user's mistake. A module of its own, because command lines need it before anything heavy loads."""


class SerError(Exception):
    """A mistake the user can mend. The message is one line: the thing, the value got, the next step (exit status 2)."""
