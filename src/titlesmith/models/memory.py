"""Memory: estimates of what a training needs, checked before it starts."""

import math
import shutil
from bisect import bisect_right

from titlesmith.errors import RequestError
from titlesmith.models.catalogue import RANDOM, num_parameters, shapes
from titlesmith.models.devices import GIB, available_memory, gpu_memory
from titlesmith.models.hub import is_hub

# Bytes for TensorFlow: the process; per parameter of a block, of a trained and of a frozen embedding; per float32
# gradient; per summed gradient with accumulation
TF_PROCESS, BLOCK, EMBEDDING, FROZEN, FLOAT32_GRADIENT, SUMMED_GRADIENT = 1.12e9, 25, 38, 6, 6.4, 13
TORCH_PROCESS = 0.7e9  # bytes
TORCH_LOGITS = 2**26  # that PyTorch computes at a time on a processor
MIN_VOCABULARY = 257  # single bytes and the end-of-text token
MIN_BLOCK_SIZE = 8  # tokens


def training_memory(
    hyperparameters: dict, settings: dict, bf16: bool, used_vocabulary: int | None = None, gpu: bool = False
) -> int:
    """Estimates the peak memory of a training with the settings of the fine-tune stage, in bytes.

    ``bf16``: whether matrix products are in bfloat16. ``used_vocabulary``: the number of tokens in a sampled softmax;
    None while unknown, and then the smallest is assumed.
    """
    chosen = settings["vocabulary"]
    samples = settings["model"] not in RANDOM if chosen == "auto" else chosen == "corpus"
    used = (used_vocabulary or MIN_VOCABULARY) if samples else hyperparameters["n_vocab"]
    if is_hub(settings["model"]):
        return round(_torch_memory(hyperparameters, settings, bf16, used, gpu))
    return round(_tensorflow_memory(hyperparameters, settings, bf16, used))


def _tensorflow_memory(hyperparameters: dict, settings: dict, bf16: bool, used: int) -> float:
    """The peak memory with ``used`` tokens in the softmax.

    Activations follow from the graph: per layer and token, two float32 streams and sixteen widths of operands, plus the
    attention weights; then four logits per vocabulary entry, two of them in float32. The cost of the process and of a
    parameter is fitted to peaks of 1.4 to 7.1 GB, measured on two CPU cores for GPT-2 124M, parts of it, and
    ``scratch``; estimates are 2% below to 13% above them. Larger models and GPUs are extrapolated.
    """
    width, depth, size = hyperparameters["n_embd"], hyperparameters["n_layer"], 2 if bf16 else 4
    block_size, trains_all = settings["block_size"], settings["layers"] == "all"
    counts = {name: math.prod(shape) for name, shape in shapes(hyperparameters | {"n_vocab": used}).items()}
    embeddings = counts["model/wte"] + counts["model/wpe"]
    blocks = sum(counts.values()) - embeddings
    trained = blocks + embeddings * trains_all
    # Memory that does not depend on the batch: process, weights, optimizer state
    fixed = TF_PROCESS + BLOCK * blocks + (EMBEDDING if trains_all else FROZEN) * embeddings
    fixed += SUMMED_GRADIENT * trained * (settings["accumulate"] > 1)
    fixed += 4 * hyperparameters["n_vocab"] * width * (used < hyperparameters["n_vocab"])
    # Memory per token: activations kept for the backward pass, and logits
    streams = (8 + 16 * size) * width + size * hyperparameters["n_head"] * block_size
    activations = depth * (4 + size) * width + streams if settings["checkpointing"] else depth * streams
    logits = (8 + 2 * size) * used
    update = 0 if bf16 else FLOAT32_GRADIENT * trained  # allocated after the activations are freed
    return fixed + max(settings["batch_size"] * block_size * (activations + logits), update)


def _torch_memory(hyperparameters: dict, settings: dict, bf16: bool, used: int, gpu: bool) -> float:
    """The peak memory with ``used`` tokens in the softmax.

    A trained parameter takes 16 bytes (weight, gradient, two Adam moments), a frozen one its stored size. A token's
    activations take 34 bytes per layer and unit of width in bfloat16 (Korthikanti et al. 2023, without attention
    weights), twice as much in float32, and 80 on a processor, where float32 copies are kept next to bfloat16. That is
    fitted to peaks of SmolLM2: 4.4 GB with 8 rows of 128 tokens, 8.4 and 10.3 GB with 8 of 512; estimates are 9% below
    to 14% above them.
    """
    count, unused = num_parameters(hyperparameters), hyperparameters["n_vocab"] - used
    width, depth, size = hyperparameters["n_embd"], hyperparameters["n_layer"], 2 if bf16 else 4
    rank, quantize = settings["lora_rank"], settings["quantize"]
    if rank:
        adapters = 8 * depth * width * rank  # two pairs per layer, some of them wider
        fixed = {"none": hyperparameters.get("itemsize", 4), "8bit": 1, "4bit": 0.55}[quantize] * count + 16 * adapters
    else:  # of embeddings that do not train, only the weights exist
        fixed = 16 * count - 12 * width * (unused if settings["layers"] == "all" else hyperparameters["n_vocab"])
    fixed += TORCH_PROCESS + 2 * count * (bf16 and quantize == "none")  # bfloat16 copies that matrix products read
    block = width * (80 if bf16 and not gpu else 17 * size)
    activations = depth * size * width + block if settings["checkpointing"] else depth * block
    tokens = settings["batch_size"] * settings["block_size"]
    return fixed + tokens * activations + (8 + 2 * size) * min(tokens * used, max_logits(gpu))


def max_logits(gpu: bool) -> int:
    """How many logits PyTorch computes at a time; with their copies, a fifth of a GPU's memory."""
    return max(TORCH_LOGITS, (gpu_memory() or 0) // 64) if gpu else TORCH_LOGITS


def check_memory(
    hyperparameters: dict,
    settings: dict,
    bf16: bool | None = None,
    used_vocabulary: int | None = None,
    gpu: bool | None = None,
) -> None:
    """Checks that a training fits into memory (RequestError with the largest batch and block sizes that do).

    Arguments as in `training_memory`; None while unknown. Then the smaller case is assumed, and a machine that may have
    a GPU is not checked.
    """
    if gpu is None and shutil.which("nvidia-smi"):
        return
    room, where = (gpu_memory(), "on the GPU") if gpu else (available_memory(), "free here")
    bf16 = settings["precision"] != "float32" if bf16 is None else bf16

    def needed(**changed: object) -> int:
        return training_memory(hyperparameters, settings | changed, bf16, used_vocabulary, bool(gpu))

    if room is None or needed() <= room:
        return
    batch, block = settings["batch_size"], settings["block_size"]
    rows = bisect_right(range(1, batch), room, key=lambda n: needed(batch_size=n))
    blocks = range(MIN_BLOCK_SIZE, hyperparameters["n_ctx"] + 1)
    tokens = MIN_BLOCK_SIZE - 1 + bisect_right(blocks, room, key=lambda n: needed(batch_size=1, block_size=n))
    hints = [f"With this block_size, the largest batch_size that fits is {rows}"] if rows else []
    if tokens >= MIN_BLOCK_SIZE:
        hints.append(f"With batch_size 1, the largest block_size that fits is {tokens}")
    if not settings["checkpointing"] and needed(checkpointing=True) <= room:
        hints.append("With finetune.checkpointing=true these sizes fit; a step then takes about a third longer")
    raise RequestError(
        f"finetune: training {settings['model']} with batch_size {batch} and block_size {block} needs about "
        f"{needed() / GIB:.1f} GiB of memory; {room / GIB:.1f} are {where}. "
        + (". ".join(hints) or "Not even one row fits: choose a smaller model")
    )
