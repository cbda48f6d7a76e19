"""Renders ``ROOT`` into ``ROOT/_build/html`` as ``jupyter-book build`` does, which has no option for several processes.

``python -m titlesmith.book.render ROOT`` exits with 0 if Sphinx printed no warning or error.
"""

import os
import sys
from pathlib import Path

from jupyter_book.sphinx import build_sphinx

if __name__ == "__main__":
    root = Path(sys.argv[1])
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
    sys.exit(result != 0)
