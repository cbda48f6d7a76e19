"""Hints: the valid name nearest to a wrong one, also where other programs use another word for the same thing."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import requires

COMMON = {  # titlesmith's name: names that other programs use and that are spelled differently
    "harvest": "data dataset download scrape",
    "corpus": "preprocess prepare tokenize",
    "finetune": "train training trainer",
    "generate": "sampling sample inference",
    "evaluate": "test metrics",
    "block_size": "seq_len sequence_length context_length max_seq_length cutoff_len",
    "count": "n nsamples num_samples num_return_sequences",
    "learning_rate": "lr rate eta",
    "max_results": "limit n_papers max_papers",
    "max_tokens": "length",
    "precision": "dtype fp16 bf16 amp",
    "since": "start start_date from from_date",
    "steps": "iterations max_iters",
    "until": "end end_date to to_date",
    "vocabulary": "vocab_size",
    "csv": "tsv excel table pandas",
    "snapshot": "kaggle cornell",
    "smollm2": "smollm smollm2-135m HuggingFaceTB/SmolLM2-135M-Instruct",
    "82M": "distilgpt2 distilgpt distilbert/distilgpt2",
    "124M": "gpt2 gpt-2 117M small gpt2-small openai-community/gpt2",
    "355M": "345M medium gpt2-medium openai-community/gpt2-medium",
    "774M": "762M large gpt2-large openai-community/gpt2-large",
    "1558M": "1542M 1.5B xl gpt2-xl openai-community/gpt2-xl",
    "bfloat16": "bf16",
}
NAME = {other.lower(): name for name, others in COMMON.items() for other in others.split()}


def nearest(name: object, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The one of ``names`` that is most likely meant, with a similarity of at least ``cutoff``; else None."""
    by_lower = {known.lower(): known for known in names}
    lower = str(name)[:100].lower().strip()
    if (common := NAME.get(lower)) in by_lower.values():
        return common
    near = get_close_matches(lower, by_lower, 1, cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(name: object, names: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint for the end of a message, with a space before it; empty if no name is near."""
    near = nearest(name, names, cutoff)
    return f" Did you mean {near}?" if near else ""


def extra_packages(extra: str) -> list[str]:
    """The requirements of one of titlesmith's extras, such as ``gradio>=5``."""
    found = (re.match(rf"(\S+); extra == ['\"]{extra}['\"]", line) for line in requires("titlesmith") or ())
    return [match[1] for match in found if match]


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra; it names them, since no index need have titlesmith."""
    return f"pip install {' '.join(map(repr, extra_packages(extra)))}"
