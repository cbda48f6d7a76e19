"""Tiny models of the transformers library with random weights, and adapters, as others publish them; runs of them."""

import json

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer as Codec
from tokenizers import decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as codecs
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from conftest import corpus_settings
from titlesmith import corpus as corpora
from titlesmith import experiment, models
from titlesmith.finetune import finetune_run
from titlesmith.harvest import harvest
from titlesmith.runs import Run

SHARP = {"temperature": 0.5, "top_k": 7}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["Neural speech recognition in noise", "A study of music transcription", "Echo: 音声 é\n"] * 30
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 1024}
CONFIGS = {
    "gpt2": lambda n: GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=2, n_positions=1024),
    "llama": lambda n: LlamaConfig(vocab_size=n, intermediate_size=64, **SHAPE),
    "qwen2": lambda n: Qwen2Config(vocab_size=n + 24, intermediate_size=64, num_key_value_heads=1, **SHAPE),
    "gpt_neox": lambda n: GPTNeoXConfig(vocab_size=n, intermediate_size=64, **SHAPE),
}


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Qwen and GPT-NeoX have it, with a chat template."""
    codec = Codec(codecs.BPE())
    codec.pre_tokenizer, codec.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    codec.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    codec.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=codec, eos_token="<|im_end|>", chat_template=CHAT)


def sentencepiece() -> PreTrainedTokenizerFast:
    """As LLaMA has it: metaspace, bytes for what is no piece, and a beginning of every text."""
    learner = Codec(codecs.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"]))
    learned = json.loads(learner.to_str())["model"]
    vocabulary = learned["vocab"] | {f"<0x{i:02X}>": len(learned["vocab"]) + i for i in range(256)}
    merges = [tuple(pair) for pair in learned["merges"]]
    codec = Codec(codecs.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    codec.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    codec.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    codec.add_special_tokens(["<s>", "</s>"])
    codec.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=codec, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


VOCABULARIES = {"byte_level": byte_level, "sentencepiece": sentencepiece}


def made(project, kind: str, vocabulary: str = "byte_level", name: str = "", unk_token=None, **shape: int) -> str:
    """A tiny model with random weights below ``models/``; its name."""
    tokenizer, folder = VOCABULARIES[vocabulary](), project / "models" / (name or kind)
    if unk_token:
        tokenizer.unk_token = unk_token
    config = CONFIGS[kind](len(tokenizer))
    for key, value in shape.items():
        setattr(config, key, value)
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder.name}"


def adapter(project, rank: int = 4, width: int = 32):
    """An adapter as others publish it, for a model in the shape of ``made``'s LLaMA."""
    torch.manual_seed(2)
    config = CONFIGS["llama"](len(sentencepiece()))
    config.hidden_size = width
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config),
        LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    model.peft_config["default"].base_model_name_or_path = "llama"
    model.save_pretrained(project / "adapter", save_embedding_layers=False)
    return project / "adapter"


def defaults(stage: str, **changes) -> dict:
    return {name: parameter.default for name, parameter in experiment.declared(stage).items()} | changes


def quick(
    name: str,
    model: str,
    template: str = "title",
    lora_rank: int = 0,
    sampling: dict = SHARP,
    source: dict | None = None,
    **corpus: object,
) -> Run:
    """A run of few steps, made without notebooks, which take a minute."""
    run = Run(name)
    run.begin("harvest", facts := defaults("harvest", **source or {"source": "sample", "num_papers": 80}))
    harvest(run, facts)
    run.begin("corpus", facts := corpus_settings(model=model, template=template, vocabulary=400) | corpus)
    corpora.build(run, facts, models.vocabulary(model), models.context(model))
    few = {"steps": 3, "batch_size": 2, "block_size": 64, "save_every": 0, "sample_every": 0, "validate_every": 0}
    run.begin("finetune", facts := defaults("finetune", model=model, lora_rank=lora_rank, learning_rate=0.05, **few))
    finetune_run(run, facts)
    run.finish("finetune")
    run.update_stage("generate", settings=defaults("generate", max_tokens=12, **sampling))
    return run
