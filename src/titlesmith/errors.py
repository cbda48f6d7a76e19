"""One small family of exceptions; each message names the file, the value and the remedy."""


class TitlesmithError(Exception):
    """Anything that titlesmith itself refuses or reports; the command line prints it without a traceback."""

    exit_code = 1


class RequestError(TitlesmithError):
    """The request was wrong (an unknown key, a value out of range, a file that is not there): nothing has run."""

    exit_code = 2


class RunError(TitlesmithError):
    """A run directory lacks something, is damaged, or is in use."""


class FetchError(TitlesmithError):
    """A server cannot be reached, or what it sent is not what was asked for; what is good of it is kept."""


class StageError(TitlesmithError):
    """A notebook failed: which cell, with what error, and where the executed notebook lies."""
