"""Export to the transformers library: weights, tokenizer, generation settings, adapter, model card."""

import json
import shutil
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from titlesmith.corpus import Corpus
from titlesmith.errors import RunError
from titlesmith.export.card import base_model, card
from titlesmith.models import gpt2_checkpoint, hub
from titlesmith.models.weights import merged
from titlesmith.runs import Run, write_json
from titlesmith.settings import defaults

NUM_CHECKED = 100  # documents whose tokens are compared
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def write(run: Run, folder: Path) -> None:
    """Writes a run's model into a new folder (RunError if the library encodes the run's texts differently)."""
    corpus, settings = Corpus(run), generation_parameters(run)
    if (run / "model" / "checkpoint").exists():
        model = gpt2_checkpoint.to_transformers(*gpt2_checkpoint.read(run / "model"))
    else:
        model = merged(run / "model")  # with its adapters
    model.generation_config = _generation_config(settings, corpus, model.get_input_embeddings().num_embeddings)
    model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):  # safetensors lets only this user read them
        shutil.copymode(folder / "config.json", weights)
    corpus.layout.save_for_transformers(corpus.info["context"], folder)
    _check_tokens(corpus, folder)
    if (adapter := run / "model" / hub.ADAPTER).exists():
        (folder / "adapter").mkdir()
        content = json.loads(adapter.read_text("utf-8"))
        content["base_model_name_or_path"] = base_model(run.record("finetune")["settings"]["model"])
        write_json(folder / "adapter" / hub.ADAPTER, content)
        shutil.copyfile(run / "model" / ADAPTER_WEIGHTS, folder / "adapter" / ADAPTER_WEIGHTS)
    precision = str(model.dtype).removeprefix("torch.")
    (folder / "README.md").write_text(card(run, corpus, settings, precision), "utf-8")


def generation_parameters(run: Run) -> dict:
    """The parameters of notebook 04 that a run's texts were generated with, or the defaults."""
    return defaults("generate") | run.record("generate").get("settings", {})


def _generation_config(settings: dict, corpus: Corpus, num_embeddings: int) -> GenerationConfig:
    """The generation settings in the library's names; ids without a token are suppressed."""
    end, is_sampled = corpus.tokenizer.eos_id, settings["beams"] == 1
    return GenerationConfig(
        do_sample=is_sampled,
        **{key: settings[key] for key in ("temperature", "top_k", "top_p") if is_sampled},
        num_beams=settings["beams"],
        max_new_tokens=settings["max_tokens"],
        min_new_tokens=settings["min_tokens"] or None,
        repetition_penalty=settings["repetition_penalty"],
        no_repeat_ngram_size=settings["no_repeat_ngram"],
        suppress_tokens=list(range(len(corpus.tokenizer), num_embeddings)) or None,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def _check_tokens(corpus: Corpus, folder: Path) -> None:
    """Checks that the library encodes the first test documents as the corpus does (RunError)."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    in_pairs = corpus.layout.completion_tokenizer is corpus.tokenizer  # else it would add a space before completions
    for row in corpus.scan("test").head(NUM_CHECKED).collect().iter_rows(named=True):
        texts = [row["prompt"], row["completion"]][: 1 + in_pairs] if corpus.has_prompt else [row["completion"]]
        if tokenizer(*texts, verbose=False)["input_ids"] != corpus.layout.prompt_ids(*texts):
            raise RunError(
                f"{folder.name}: the transformers library makes other tokens of {texts[0][:60]!r} than the model has "
                "learned; nothing was exported"
            )
