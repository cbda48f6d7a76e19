"""Weights of models of the transformers library, read from folders: models, adapters (peft), both merged.

Files are safetensors, or of `torch.save` with only tensors and plain values. No code of a model's folder is run.
"""

import logging
import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from titlesmith.errors import RequestError, RunError
from titlesmith.models import folder, hub

STATE = "titlesmith.pt"  # the file of a checkpoint that says what the others belong to
set_verbosity_error()
disable_progress_bar()  # which is a widget in a notebook
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, SafetensorError, UnpicklingError)


def read(path: Path, quantize: str) -> PreTrainedModel:
    """The model of a folder, in its stored type (float32 instead of float16 without a GPU)."""
    options: dict = {"dtype": "auto"}
    if quantize != "none":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a line for each product
        options["device_map"] = {"": 0 if torch.cuda.is_available() else "cpu"}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantize == "8bit",
            load_in_4bit=quantize == "4bit",
            bnb_4bit_quant_type="nf4",  # as in QLoRA (Dettmers et al. 2023)
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, trust_remote_code=False, **options)
    except UNREADABLE as error:
        raise RequestError(f"model: {path} cannot be read: {hub.explain(error)}") from None
    if quantize != "none":
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model.float() if model.dtype == torch.float16 and not torch.cuda.is_available() else model


def with_adapter(model: PreTrainedModel, path: Path, train: bool = False) -> PeftModel:
    """A model with the adapter of a folder in peft's layout (RequestError if it is another model's)."""
    try:
        with warnings.catch_warnings():  # of unknown settings, and of missing matrices, which are an error below
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, str(path), is_trainable=train, local_files_only=True)
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # else it asks the hub
        given = load_peft_weights(str(path), device="cpu")
    except UNREADABLE as error:
        raise RequestError(f"adapter: {path} does not fit the model, or is damaged: {hub.explain(error)}") from None
    if wrong := sorted(name for name in own.keys() ^ given.keys() if "lora_" in name):
        raise RequestError(
            f"adapter: {path} does not fit the model: {len(wrong)} matrices are only in one of them, such as {wrong[0]}"
        )
    return adapted


def merged(path: Path) -> PreTrainedModel:
    """The model of a checkpoint, with adapters merged into the weights, in the weights' type."""
    if not (path / "adapter_config.json").exists():
        return read(path, "none")
    base = read_state(path / STATE)["base"]
    return with_adapter(read(folder(base), "none"), path).merge_and_unload(safe_merge=True)


def read_state(path: Path) -> dict:
    """The tensors and plain values in a file of `torch.save` (RunError if it is damaged or holds other objects)."""
    try:
        return torch.load(path, weights_only=True)
    except UNREADABLE as error:
        raise RunError(f"{path} cannot be read: {hub.explain(error)}") from None
