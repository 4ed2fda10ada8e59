"""The exception that a user can mend."""


class UserError(ValueError):
    """A mistake in what shoal was given: its text says what is wrong and what to do next.

    The command line prints the text alone and exits with 2. In Python it is a ``ValueError``, as scikit-learn
    raises for bad input.
    """

    claimed: bool = False
    """Whether this process is the one of several that says it."""


class EchoedError(UserError):
    """What another process of the job says already."""
