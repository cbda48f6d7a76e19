"""Interrupts: the stop button of a notebook and Ctrl-C send SIGINT; schedulers and the system send SIGTERM."""

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Notes the first interrupt within a ``with`` block, for work that stops only where its state can be saved.

    ``number`` is the signal's, 0 before it. A second interrupt acts as it would outside of the block. Only the main
    thread can do this; in another one the block changes nothing.
    """

    def __init__(self) -> None:
        self.number, self._former = 0, {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
