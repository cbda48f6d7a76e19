"""One small family of exceptions; each message names the file, the value and the remedy."""

from reprlib import Repr


class TitlesmithError(Exception):
    """Anything that titlesmith itself refuses or reports; the command line prints it without a traceback."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What notebooks show instead of a traceback."""
        return [str(self)]


class RequestError(TitlesmithError):
    """The request was wrong (an unknown key, a value out of range, a file that is not there): nothing has run."""

    exit_code = 2


class RunError(TitlesmithError):
    """A run directory lacks something, is damaged, or is in use."""


class FetchError(TitlesmithError):
    """A server cannot be reached, or its answer is not what was requested; the usable part is kept."""


class StageError(TitlesmithError):
    """A notebook failed: which cell, with what error, and the path of the executed notebook."""


class InterruptError(TitlesmithError):
    """A stage was interrupted, by ``signal``; the message says how far it came and what resumes it."""

    exit_code, signal = 130, 0


def shorten(value: object, limit: int = 80) -> str:
    """A value as messages show it: its repr, shortened in the middle if a text exceeds ``limit`` characters."""
    short = Repr()
    short.maxstring = short.maxother = limit
    short.maxlist = short.maxtuple = short.maxdict = 6
    return short.repr(value)


# What reading a damaged file of a run can raise
DAMAGE = (TitlesmithError, OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError)
