"""What differs between architectures of the transformers library: new models, their blocks, dropout, adapters."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TARGETS
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError

MAX_PROBED = 128  # tokens of a document that a model's attention is probed with, if it has no window
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")  # names in configurations
MIN_OPERATIONS = 5e15  # of a training worth compiling: about a minute on a large GPU


def scratch(tokenizer: Tokenizer, hyperparameters: dict, seed: int) -> PreTrainedModel:
    """A small LLaMA (Touvron et al. 2023) with random weights; ``hyperparameters`` are those of GPT-2's hparams.json.

    It has rotary position embeddings (Su et al. 2021), because a learned table of positions needs more than a few
    thousand papers.
    """
    width = hyperparameters["n_embd"]
    config = LlamaConfig(
        vocab_size=hyperparameters["n_vocab"],
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 32) * 32,  # three matrices with as many parameters as GPT-2's two
        num_hidden_layers=hyperparameters["n_layer"],
        num_attention_heads=hyperparameters["n_head"],
        max_position_embeddings=hyperparameters["n_ctx"],
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_id,
        eos_token_id=tokenizer.eos_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer's blocks: the list of modules with the largest number of parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda modules: sum(p.numel() for p in modules.parameters()))


def fuse_gelu(model: nn.Module) -> None:
    """Replaces GPT-2's GELU by one kernel; the library's has eight, and keeps most of their results for backward."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def can_compile() -> bool:
    """Whether there are a GPU, Triton, and the C compiler that it needs."""
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return torch.cuda.is_available() and bool(find_spec("triton")) and any(map(shutil.which, compilers))


def compile_blocks(model: PreTrainedModel | PeftModel) -> None:
    """Compiles blocks and head when they are first called; what cannot be compiled runs uncompiled.

    The operations between two matrix products become one kernel. All blocks share one compilation, of some seconds.
    """
    torch.compiler.reset()  # a model trained earlier in this process counts among the versions of the same code
    torch._dynamo.config.suppress_errors = True
    for module in (*blocks(model), model.get_output_embeddings()):
        module.compile()


def set_dropout(model: nn.Module, rate: float) -> None:
    """Sets the dropout rate of every layer of the model except adapters."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = rate
        for attribute in ("dropout", "attention_dropout", "hidden_dropout"):  # some have it as a number
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, rate)


def adapted(model: PreTrainedModel, settings: dict, seed: int) -> PeftModel:
    """The model with low-rank adapters, which alone train (LoRA; Hu et al. 2022).

    RequestError if the model has no layer of a name in ``lora_targets``.
    """
    linear = {n.rpartition(".")[2]: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    if unknown := set(settings["lora_targets"]) - linear.keys():
        raise RequestError(
            f"finetune.lora_targets: the model has no layer {', '.join(sorted(unknown))}; it has {', '.join(linear)}"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules=settings["lora_targets"] or TARGETS.get(model.config.model_type, "all-linear"),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def separates_documents(losses: Callable, model: PreTrainedModel, vocabulary: int, block: int) -> bool:
    """Whether a document has the same losses at the beginning of a row and after another document.

    transformers masks documents whose ``position_ids`` restart, in most architectures. This tries two random documents
    in both orders, which are longer than the window of attention, if it is smaller than a row of ``block`` tokens.
    ``losses`` is a `titlesmith.train.target_losses.TargetLosses`; ``vocabulary`` is a number of tokens.
    """
    model.eval()
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in WINDOWS]
    windows = [window for window in windows if isinstance(window, int) and 0 < window < block]
    size = max(windows) * 3 // 2 if windows else min(block // 2, MAX_PROBED)
    if 2 * size > (getattr(config, "max_position_embeddings", None) or 2 * size):
        return False
    documents = np.random.default_rng(1).integers(0, vocabulary, (2, size), np.int32)
    ids = np.stack([documents.reshape(-1), documents[::-1].reshape(-1)])
    inputs, positions = (ids, np.arange(ids.size), ids.reshape(-1)), np.tile(np.arange(size, dtype=np.int32), (2, 2))
    try:
        packed, one = (losses(model, *inputs, given).reshape(2, 2, size) for given in (positions, None))
    except Exception:  # whatever an architecture raises that has no position_ids
        return False
    alone = one[:, 0]
    changed = (packed - torch.stack([alone, alone.flip(0)], 1)).abs().mean()
    return bool(changed < 0.05 * (one[:, 1] - alone.flip(0)).abs().mean())  # rounding changes less
