"""The engine of the transformers library: architectures, adapters, vocabularies; what all engines do is in
test_contract.py."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
)

from conftest import corpus_settings
from tiny import SHAPE, VOCABULARIES, byte_level, defaults, made
from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith import train as engines
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import FetchError, RequestError
from titlesmith.generate import backend_for
from titlesmith.generate.source import open_adapter_source
from titlesmith.models.gpt2_checkpoint import to_transformers
from titlesmith.runs import Run
from titlesmith.train import architectures
from titlesmith.train.huggingface import HuggingFaceEngine
from titlesmith.train.packing import PackedDataset
from titlesmith.train.sampled_softmax import trained_ids
from train.helpers import EVERYTHING, TINY, history, kill_at, prepare, train


@pytest.mark.parametrize(
    ("kind", "vocabulary", "settings"),
    [
        ("gpt2", "byte_level", {}),
        ("llama", "sentencepiece", {}),
        ("qwen2", "byte_level", {"vocabulary": "corpus"}),
        ("gpt2", "byte_level", {"vocabulary": "corpus", "lora_rank": 2}),
        ("gpt2", "byte_level", {"lora_rank": 2, "lora_dropout": 0.1}),
        ("llama", "sentencepiece", {"lora_rank": 2, "lora_dropout": 0.1, "lora_targets": ["q_proj", "down_proj"]}),
        ("gpt_neox", "byte_level", {"lora_rank": 2, "precision": "bfloat16"}),
    ],
)
def test_architectures_train_resume_to_the_bit_and_write(project, monkeypatch, kind, vocabulary, settings):
    settings = EVERYTHING | {"steps": 6, "learning_rate": 0.05} | settings
    model = made(project, kind, vocabulary)
    full = train(*prepare("full", model), model, **settings)
    run, corpus = prepare("resumed", model)
    run.begin("finetune", {"model": model})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at(4, patch)
        train(run, corpus, model, **settings)
    resumed = train(run, corpus, model, **settings)
    run.finish("finetune")
    rows = history(run)
    assert rows == history(Run("full")) and rows[-1]["loss"] < rows[0]["loss"]
    losses = [engine.mean_loss(corpus.documents("valid")) for engine in (full, resumed, engines.load_engine(run))]
    assert losses[0] == losses[1] == losses[2]
    files = {file.name for file in (run / "model").iterdir()}
    assert "tokenizer.json" in files
    assert ("adapter_model.safetensors" in files) is bool(settings.get("lora_rank"))
    assert not any(name.endswith((".bin", ".pkl")) for name in files)


def test_a_sampled_softmax_has_the_ids_that_a_pretrained_model_expects(project):
    model = made(project, "qwen2")
    _, corpus = prepare("run", model)
    engine = HuggingFaceEngine.open(model)
    settings = defaults("finetune", model=model, vocabulary="corpus")
    used = engine._used_ids(corpus, settings)
    ids = torch.from_numpy(np.array(corpus.documents("train").ids[:128])).long()[None]
    with torch.no_grad():
        mass = engine.model(input_ids=ids).logits[0, :, : len(engine.tokenizer)].softmax(-1).sum(0)
    assert np.isin(mass.topk(10).indices.numpy(), used).all()
    assert np.isin(trained_ids(corpus, settings), used).all() and (np.diff(used) > 0).all()


@pytest.mark.parametrize(("kind", "settings"), [("gpt2", {}), ("llama", {"lora_rank": 2})])
def test_compiled_blocks_compute_the_same_and_run_uncompiled_outside_training(project, monkeypatch, kind, settings):
    settings = EVERYTHING | {"checkpointing": False, "dropout": 0.0, "steps": 6, "learning_rate": 0.05} | settings
    model = made(project, kind)
    full = train(*prepare("full", model), model, **settings)
    graphs = []

    def backend(graph, inputs):  # what GPUs get compiled is only traced here
        graphs.append(graph)
        return graph

    compiled, method = torch.compile, torch.nn.Module.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled(function, backend=backend))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: method(module, backend=backend))
    monkeypatch.setattr(architectures, "can_compile", lambda: True)
    torch.compiler.reset()
    few = train(run := prepare("few", model)[0], corpora.Corpus(run), model, **settings)
    assert not graphs, "a training of six steps is not worth it"
    monkeypatch.setattr(architectures, "MIN_OPERATIONS", 0)
    run, corpus = prepare("compiled", model)
    fast = train(run, corpus, model, **settings)
    torch.compiler.reset()
    said = "one for all blocks, and the loss; again for other lengths, and for rows of one document each"
    assert 2 <= len(graphs) <= 11, said
    losses = [[row["loss"] for row in history(Run(name))] for name in ("full", "few", "compiled")]
    assert losses[0] == losses[1] == pytest.approx(losses[2], abs=1e-6)
    losses = [engine.mean_loss(corpus.documents("valid")) for engine in (fast, few, full)]
    assert losses[0] == pytest.approx(losses[2], abs=1e-6) and losses[1] == losses[2]


LOCAL = [[["global", "local"], 1]]
WIDTHS = {"num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 32}
GQA = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 1}
SEPARATES = {  # whether a model separates documents by position ids; block_size is 64
    "gpt2": (True, GPT2Config(n_embd=32, n_layer=2, n_head=2)),
    "llama": (True, LlamaConfig(**GQA)),
    "eager attention": (True, Gemma2Config(**GQA, head_dim=16)),
    "distances in the row": (False, MptConfig(d_model=32, n_layers=2, n_heads=2)),
    "a mask of another shape": (False, BloomConfig(hidden_size=32, n_layer=2, n_head=2)),
    "no attention": (False, MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4)),
    "no position ids": (False, BartConfig(d_model=32, decoder_layers=2, decoder_attention_heads=2, encoder_layers=1)),
    "a window shorter than a row": (True, MistralConfig(**GQA, sliding_window=32)),
    "a window longer than a row": (True, MistralConfig(**GQA, sliding_window=64)),
    "local attention": (True, GPTNeoConfig(**SHAPE, num_layers=2, num_heads=2, window_size=32, attention_types=LOCAL)),
}


@pytest.mark.parametrize("kind", SEPARATES)
def test_documents_are_masked_if_the_model_separates_them(project, kind):
    corpus, (reads, config) = prepare("r", made(project, "gpt2"))[1], SEPARATES[kind]
    config.vocab_size = len(corpus.tokenizer)
    settings = defaults("finetune", model="hf:gpt2", block_size=64)
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 6 if parameter.ndim > 1 else 1  # probabilities as sharp as a trained model's
        engine = HuggingFaceEngine(model, corpus.tokenizer)
        assert engine.masks_documents(settings) is reads
        assert not engine.masks_documents(settings | {"attention": "row"})
    if not reads:
        with pytest.raises(RequestError, match="set it to row"):
            engine.masks_documents(settings | {"attention": "document"})
        return
    documents = corpus.documents("train")
    rows = PackedDataset(documents, 1, 128, 1, mask_documents=True).num_rows
    nats, tokens = engine.document_losses(documents)
    engine.prepare(corpus, settings | {"batch_size": rows})
    loss, norm = engine.train_step(PackedDataset(documents, rows, 128, 1, mask_documents=True)[1], 1e-3)
    assert loss == pytest.approx(nats.sum() / tokens.sum(), rel=1e-4) and norm > 0


@pytest.mark.parametrize("config", [OPTConfig(**WIDTHS, ffn_dim=64, word_embed_proj_dim=32), BloomConfig(**WIDTHS)])
def test_dropout_is_the_setting_in_every_architecture(config):
    config.vocab_size = 50
    for name in ("dropout", "attention_dropout", "hidden_dropout"):
        setattr(config, name, 0.5)
    model = AutoModelForCausalLM.from_config(config).train()
    ids = torch.arange(20)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    architectures.set_dropout(model, 0.0)
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_what_was_trained_is_read_by_transformers_alone(project):
    run, corpus = prepare("r", model := made(project, "llama", "sentencepiece"))
    engine = train(run, corpus, model)
    alone = AutoModelForCausalLM.from_pretrained(run / "model")
    ids = torch.tensor([corpus.layout.prompt_ids("Music")])
    with torch.no_grad():
        assert torch.log_softmax(alone(ids).logits[0, -1], -1).numpy() == pytest.approx(
            backend_for(engine).next_token_logprobs(ids.tolist())[0], abs=1e-5
        )
    assert AutoTokenizer.from_pretrained(run / "model").eos_token_id == corpus.tokenizer.eos_id


def test_the_same_gpt2_has_the_same_loss_in_both_engines(project, monkeypatch):
    import tensorflow as tf

    from titlesmith.train.gpt2 import GPT2Engine

    _, corpus = prepare("r")
    shape = TINY | {"n_vocab": len(corpus.tokenizer)}
    stock, generator = GPT2Engine(corpus.tokenizer, shape), np.random.default_rng(1)
    weights = {}
    for variable in stock._variables:
        centre = float(variable.op.name.endswith("/g"))
        weights[variable.op.name] = generator.normal(centre, 0.3, variable.shape.as_list()).astype(np.float32)
        variable.load(weights[variable.op.name], stock._session)
    assert len(weights) == len(tf.nest.flatten(stock._variables))
    to_transformers(weights, shape).save_pretrained(folder := project / "models" / "converted")
    corpus.tokenizer.save(folder)
    other = HuggingFaceEngine.open("hf:converted")
    for split in ("train", "valid"):
        documents = corpus.documents(split)
        assert other.mean_loss(documents) == pytest.approx(stock.mean_loss(documents), abs=1e-4)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("template", ["abstract-to-title", "alpaca", "{title}"])
def test_documents_of_published_vocabularies_come_back(project, vocabulary, template):
    model = made(project, "llama", vocabulary)
    _, corpus = prepare("r", model, template=template)
    assert corpus.info["vocabulary"] == len(corpus.tokenizer)
    row, document = corpus.table("valid").row(0, named=True), corpus.documents("valid")[0]
    learned = corpus.documents("valid").loss_mask(0)
    assert document[-1] == corpus.tokenizer.eos_id
    if template == "{title}":
        start = len(corpus.layout.start)
        assert corpus.layout.decode(document[start:-1]) == row["completion"] and start == len(corpus.tokenizer.bos_ids)
    elif learned.any():
        assert corpus.layout.decode(document[learned == 1][:-1]) == row["completion"]


def test_documents_of_chatgentitle_have_the_ids_of_alpaca_loras_text(project):
    """alpaca-lora encodes prompt, newline and title as one text, and adds the end."""
    _, corpus = prepare("r", made(project, "llama", "sentencepiece"), template="chatgentitle")
    theirs = AutoTokenizer.from_pretrained(project / "models" / "llama")
    for row, document in zip(corpus.table("valid").iter_rows(named=True), corpus.documents("valid"), strict=True):
        whole, begun = (theirs(f"{row['prompt']}\n{text}")["input_ids"] for text in (row["completion"], "Neural s"))
        assert document.tolist() == [*whole, theirs.eos_token_id]
        assert corpus.layout.prompt_ids(row["prompt"], "Neural s")[1:] == begun


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_no_text_encodes_to_a_special_token(project, vocabulary):
    made(project, "llama", vocabulary)
    tokenizer = Tokenizer.load(project / "models" / "llama")
    for text in ("a</s>b", "<|im_end|>", "Neural é"):
        ids = tokenizer.encode(text)
        assert tokenizer.eos_id not in ids and tokenizer.decode(ids) == text
    assert tokenizer.encode("") == [] and tokenizer.encode_batch(["Music"]) == [tokenizer.encode("Music")]


def test_a_chat_template_surrounds_question_and_answer(project):
    run, corpus = prepare("r", model := made(project, "qwen2"), template="chat", too_long="cut")
    layout = corpus.layout
    assert layout.markers == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "")
    rendered = byte_level().apply_chat_template(
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So"}], tokenize=False
    )
    ids = [*layout.prompt_ids("Why?")[1:], *corpus.tokenizer.encode("So"), corpus.tokenizer.eos_id]
    assert corpus.tokenizer.decode(ids) + "\n" == rendered
    assert train(run, corpus, model, steps=2).step == 2


def test_a_model_without_a_chat_template_is_refused(project):
    with pytest.raises(RequestError, match="chat needs a model with a chat template"):
        prepare("r", made(project, "llama", "sentencepiece"), template="chat")
    with pytest.raises(RequestError, match="scratch' has none"):
        corpora.check(corpus_settings(template="chat"), {"source": "sample"})


def test_adapters_train_on_8_bit_weights_without_a_gpu_and_resume(project, monkeypatch, caplog):
    pytest.importorskip("bitsandbytes", reason="needs pip install bitsandbytes")
    run, corpus = prepare("r", model := made(project, "llama", "sentencepiece"))
    chosen = {"quantize": "8bit", "lora_rank": 2, "save_every": 2, "steps": 4}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at(3, patch)
        train(run, corpus, model, **chosen)
    engine = train(run, corpus, model, **chosen)
    assert engine.step == 4 and next(engine.model.parameters()).device.type == "cpu" and "cast" not in caplog.text
    assert any(weight.dtype == torch.int8 for weight in engine.model.parameters())
    prompt = corpus.layout.prompt_ids("")
    adapted = open_adapter_source(run / "model", model, "8bit").open()
    assert np.isfinite(adapted.next_token_logprobs([prompt])).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora_rank": 2, "lora_targets": ["attention"]}, r"no layer attention; it has .*q_proj"),
        ({"quantize": "4bit"}, "set finetune.lora_rank"),
        ({"quantize": "8bit", "lora_rank": 2}, "8bit needs pip install bitsandbytes; without it, set it to none"),
        (
            {"quantize": "4bit", "lora_rank": 2, "bitsandbytes": True},
            "4bit needs an NVIDIA GPU; set it to 8bit or none",
        ),
    ],
)
def test_what_cannot_train_is_refused_in_a_sentence(project, monkeypatch, settings, said):
    monkeypatch.setattr("titlesmith.models.limits.shutil.which", lambda name: None)
    monkeypatch.setattr(
        "titlesmith.models.limits.find_spec", lambda name, installed="bitsandbytes" in settings: installed
    )
    model = made(project, "llama", "sentencepiece")
    run, corpus = prepare("r", model)
    settings = {key: value for key, value in settings.items() if key != "bitsandbytes"}
    quantized = settings.pop("quantize", "none")
    with pytest.raises(RequestError, match=said):
        chosen = {"model": model, "lora_rank": 0, "quantize": quantized, "batch_size": 4, "processes": 1} | settings
        models.check_training(chosen)
        train(run, corpus, model, **settings)


def test_a_model_that_is_not_here_is_named_with_what_to_put_where(project, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match=r"hf:nobody/nothing does not exist here.*models/nobody/nothing: config\.json"):
        models.folder("hf:nobody/nothing")
    made(project, "gpt2")
    (project / "models" / "gpt2" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="gpt2 lacks weights"):
        models.folder("hf:gpt2")


def test_a_corpus_of_another_vocabulary_is_refused(project):
    run, corpus = prepare("r", made(project, "gpt2"))
    with pytest.raises(RequestError, match="not tokenized for hf:llama"):
        engines.start_engine(run, made(project, "llama", "sentencepiece"), corpus, 1)


def test_without_the_libraries_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(models.hub, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install .*'torch>="):
        models.hub.check_installed()


def test_models_here_are_listed(project):
    made(project, "gpt2")
    assert {"hf:scratch", "hf:gpt2"} <= set(models.names())
    counted = models.hyperparameters("hf:gpt2", 0)
    alone = AutoModelForCausalLM.from_pretrained(project / "models" / "gpt2")
    assert counted["parameters"] == alone.num_parameters() and counted["n_ctx"] == 1024
