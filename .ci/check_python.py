"""Ends with the reason if this Python cannot run titlesmith."""

import sys

found = ".".join(map(str, sys.version_info[:3]))
if sys.version_info < (3, 11, 5):
    sys.exit(
        f"titlesmith needs Python 3.11.5 to 3.13; {sys.executable} is {found}. Set another: make PYTHON=python3.12"
    )
if sys.version_info >= (3, 14):
    reason = "TensorFlow has no build for Python 3.14 yet"
    sys.exit(f"{reason}; {sys.executable} is {found}. Set 3.11.5 to 3.13: make PYTHON=python3.13")
