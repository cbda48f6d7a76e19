"""The corpus: papers cleaned, split, formatted by a template and tokenized, in ``runs/<run>/corpus/``."""

from titlesmith.corpus.corpus import Corpus, DocumentFormat, build, check
from titlesmith.corpus.documents import Documents
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.split import SPLITS
from titlesmith.corpus.template import Template
from titlesmith.corpus.tokenizer import Tokenizer
