"""The one exception that means: the user can mend this, and the message says how."""


class UserError(ValueError):
    """A mistake in the input. Scripts print only its message, without a traceback, and exit with code 2."""
