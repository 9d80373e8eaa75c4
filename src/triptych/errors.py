"""What goes wrong for a reason that a user can be told in a sentence. Imports nothing, so that a
refusal waits for nothing."""

WRONG, FAILED = 2, 1  # exit codes: the request is wrong; it was right, and could not be done


class UserError(Exception):
    """The request is wrong. The message is one sentence: the value, what is allowed, what to do."""


class RunFailed(Exception):
    """A run could not be finished. The message says what was saved and how to go on."""
