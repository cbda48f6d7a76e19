"""``python -m titlesmith`` is the command ``titlesmith``."""

from titlesmith.cli import main

main()
