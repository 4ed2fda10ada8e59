"""Errors that the user can fix."""


class UserError(ValueError):
    """A mistake in what shoal was given: its text says what is wrong and what to do next.

    The command line prints the text alone and exits with 2. In Python it is a ``ValueError``, as scikit-learn
    raises for bad input.
    """

    claimed: bool = False
    """Whether this process is the one of several that reports it."""


class EchoedError(UserError):
    """An error that another process of the job has already reported."""
