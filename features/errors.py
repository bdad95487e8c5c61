"""The one kind of error that a person at the command line is meant to read."""


class InputError(ValueError):
    """Bad input: a spec, a table or an option. One line that names where, what was found and what was expected."""
