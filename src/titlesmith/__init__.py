"""titlesmith: fine-tune language models on scientific papers and publish what happened as a book."""

from importlib.metadata import version

__version__ = version("titlesmith")
