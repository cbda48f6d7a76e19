"""Sphinx as Jupyter Book sets it up, in a separate process: ``python -m titlesmith.book.render ROOT``.

``jupyter-book build`` has no option for more than one process.
"""

import os
import sys
from pathlib import Path

from jupyter_book.sphinx import build_sphinx


def main(root: Path) -> int:
    """Renders ``ROOT`` into ``ROOT/_build/html``; the exit status is 0 if Sphinx printed no warning or error."""
    result = build_sphinx(
        str(root),
        str(root / "_build" / "html"),
        noconfig=True,
        path_config=str(root / "_build" / "config.yml"),
        confoverrides={
            "external_toc_path": str(root / "_build" / "toc.yml"),
            "latex_individualpages": False,
            "nitpicky": True,
            # without `substitution`, whose text is a Jinja template that can run code
            "myst_enable_extensions": ["colon_fence", "dollarmath", "linkify", "tasklist"],
            "myst_substitutions": {},
            "nb_render_markdown_format": "commonmark",
        },
        warningiserror=True,
        keep_going=True,
        jobs=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,  # else it cannot fork
    )
    return int(result != 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
