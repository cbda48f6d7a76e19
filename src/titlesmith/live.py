"""The live view of a training in JupyterLab and Colab: one bar, the loss so far, the newest sample."""

import base64
import io
import os
import sys
import time
from contextlib import suppress

from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

from titlesmith import plots
from titlesmith.markup import render
from titlesmith.pipeline import BATCH
from titlesmith.runs import Run
from titlesmith.train import monitor

FORMAT = "step {n_fmt} of {total_fmt}, {remaining} left{postfix}"


def is_watched() -> bool:
    """Whether this process is the kernel of a notebook that somebody watches."""
    return hasattr(get_ipython(), "kernel") and not os.environ.get(BATCH)


def merge_streams() -> None:
    """Lets standard error, which notebooks show in red, appear as output, in which bars overwrite themselves."""
    if is_watched() and hasattr(sys.stderr, "pub_thread"):  # ipykernel's stream, also of what libraries write in C
        sys.stderr.name = "stdout"


class LiveBar(tqdm):
    """A progress bar of a training; it draws the figure of the run's history again and again, in 5% of the time."""

    def __init__(self, run: Run, **options: object):
        self._run, self._image, self._sample, self._next_figure = run, "", {}, 0.0
        self._handle = display(display_id=True)
        super().__init__(file=io.StringIO(), bar_format=FORMAT, **options)

    def display(self, *_: object, **__: object) -> None:
        """Shows the present state in place of the one before."""
        begun = time.monotonic()
        if begun >= self._next_figure:
            with suppress(Exception):  # a figure that cannot be drawn must not end the training
                self._draw()
            self._next_figure = time.monotonic() + 20 * (time.monotonic() - begun)
        html = render("live.html.j2", bar=self, text=str(self), image=self._image, sample=self._sample)
        self._handle.update({"text/html": str(html), "text/plain": str(self)}, raw=True)

    def _draw(self) -> None:
        if rows := monitor.read(self._run / "history.csv"):
            figure, (axis,) = plots.create_panels(title=f"Training on {self._run.source_label}")
            plots.draw_losses(axis, rows, kept=0)
            axis.legend()
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            self._image = base64.b64encode(buffer.getvalue()).decode()
            self._sample = (monitor.first_samples(self._run) or [{}])[-1]

    def close(self) -> None:
        """Shows the last state, with its figure."""
        self._next_figure = 0.0
        super().close()
