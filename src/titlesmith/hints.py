"""Hints: the valid name nearest to a wrong one, also where other programs use another word for the same thing."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import requires

COMMON = {  # titlesmith's name: names that other programs use
    "harvest": "data dataset download scrape",
    "corpus": "preprocess prepare tokenize",
    "finetune": "train training trainer",
    "generate": "sampling sample inference",
    "evaluate": "eval evaluation test metrics",
    "accumulate": "gradient_accumulation_steps grad_accum accumulation",
    "batch_size": "batch bs per_device_train_batch_size micro_batch_size",
    "beams": "num_beams beam_size",
    "block_size": "block seq_len sequence_length context_length max_seq_length cutoff_len",
    "categories": "category subjects",
    "checkpointing": "gradient_checkpointing",
    "count": "n nsamples num_samples num_return_sequences",
    "epochs": "epoch num_epochs num_train_epochs n_epochs",
    "held_out": "test_prompts",
    "learning_rate": "lr rate eta",
    "lora_alpha": "alpha",
    "lora_rank": "lora_r rank r",
    "lora_targets": "target_modules lora_target_modules",
    "max_results": "limit n_papers max_papers",
    "max_tokens": "length max_length max_new_tokens",
    "min_tokens": "min_length min_new_tokens",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "path": "file filename input data_path",
    "patience": "early_stopping early_stopping_patience",
    "precision": "dtype fp16 bf16 amp",
    "prefixes": "prefix beginnings include_prefix",
    "quantize": "load_in_4bit load_in_8bit quantization",
    "sample_every": "sample_steps",
    "save_every": "save_steps checkpoint_every",
    "schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule",
    "seed": "random_state random_seed",
    "since": "start start_date from from_date",
    "split": "splits val_split test_size",
    "steps": "max_steps num_steps iterations max_iters iters",
    "temperature": "temp t",
    "top_k": "topk k",
    "top_p": "topp p nucleus",
    "train_on_prompt": "train_on_inputs",
    "until": "end end_date to to_date",
    "validate_documents": "eval_iters max_eval_samples",
    "validate_every": "eval_steps eval_every eval_interval",
    "vocabulary": "vocab vocab_size",
    "warmup_steps": "warmup",
    "weight_decay": "wd decay",
    "alpaca": "json instructions",
    "archive": "zenodo",
    "arxiv": "api",
    "csv": "tsv excel table pandas",
    "oai": "oai-pmh oaipmh",
    "rss": "feed atom",
    "snapshot": "kaggle cornell",
    "smollm2": "smollm smollm2-135m HuggingFaceTB/SmolLM2-135M-Instruct",
    "82M": "distilgpt2 distilgpt distilbert/distilgpt2",
    "124M": "gpt2 gpt-2 117M small gpt2-small openai-community/gpt2",
    "355M": "345M medium gpt2-medium openai-community/gpt2-medium",
    "774M": "762M large gpt2-large openai-community/gpt2-large",
    "1558M": "1542M 1.5B xl gpt2-xl openai-community/gpt2-xl",
    "bfloat16": "bf16",
    "float32": "fp32",
    "4bit": "int4 nf4 4",
    "8bit": "int8 8",
    "cut": "truncate",
    "date": "time chronological temporal",
    "random": "shuffle shuffled",
    "full": "fsdp zero3",
}
NAME = {other.lower(): name for name, others in COMMON.items() for other in others.split()}


def nearest(name: object, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The one of ``names`` that is most likely meant, with a similarity of at least ``cutoff``; else None."""
    by_lower = {known.lower(): known for known in names}
    lower = str(name)[:100].lower().strip()
    if (common := NAME.get(lower)) in by_lower.values():
        return common
    underscored = lower.replace("-", "_").replace(" ", "_")
    near = get_close_matches(lower, by_lower, 1, cutoff) or get_close_matches(underscored, by_lower, 1, cutoff)
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
