"""The one exception that a person is meant to read."""


class UserError(ValueError):
    """A mistake in what the user asked for, told in one sentence: what is wrong and the mend.

    Commands print it without a traceback and exit with status 2.
    """
