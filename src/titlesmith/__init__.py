"""titlesmith: fine-tune language models on scientific papers and publish what happened as a book."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("titlesmith")
except PackageNotFoundError:  # read from a folder that was not installed
    __version__ = "0"
