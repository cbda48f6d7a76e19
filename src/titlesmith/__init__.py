"""titlesmith: fine-tune language models on scientific papers and publish what happened as a book."""

import os
import sys
import warnings
from importlib.metadata import version

# With this package, jsonschema compiles a grammar for seconds to check what no notebook has: addresses with any letter
sys.modules.setdefault("rfc3987_syntax", None)
# tqdm, which transformers imports, would like widgets that the bars of notebooks here do without
warnings.filterwarnings("ignore", "IProgress not found")
# TensorFlow's warnings on what a softmax may cost fill the screen
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# oneDNN, which TensorFlow disables on some processors: a training step of GPT-2 takes a fifth less time with it
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = version("titlesmith")
