"""The one exception that is shown to the user without a stack trace."""


class UserError(Exception):
    """Something the user can put right: its message names the value, the key and the remedy."""
