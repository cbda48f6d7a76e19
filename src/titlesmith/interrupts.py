"""Interrupts: the stop button of a notebook and Ctrl-C send SIGINT; schedulers and the system send SIGTERM."""

import signal
import threading
from contextlib import ExitStack
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt(ExitStack):
    """Notes the first interrupt within a ``with`` block, for work that stops only where its state can be saved.

    ``number`` is the signal's, 0 before it. A second interrupt acts as it would outside of the block. Only the main
    thread can do this; in another one the block changes nothing.
    """

    number = 0

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                former = signal.signal(number, self._note)
                self.callback(signal.signal, number, former or signal.SIG_DFL)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.close()  # restores the handlers
