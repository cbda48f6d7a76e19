"""Losses at targets, in chunks, over the full vocabulary and over a sample of it."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig

from tiny import SHAPE, made
from titlesmith.errors import RequestError
from titlesmith.train import sampled_softmax, target_losses
from titlesmith.train.huggingface import HuggingFaceEngine
from titlesmith.train.target_losses import SampledHead, TargetLosses, cross_entropies
from train.helpers import history, prepare, train

WIDE = SHAPE | {"intermediate_size": 64, "num_key_value_heads": 1, "vocab_size": 90}
CONFIGS = {  # whether the logits are those of a linear head, unchanged
    "llama": (True, LlamaConfig(**WIDE, tie_word_embeddings=False)),
    "gpt2": (True, GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=90)),
    "scaled embeddings": (True, Gemma3TextConfig(**WIDE, head_dim=16)),
    "capped logits": (False, Gemma2Config(**WIDE, head_dim=16, final_logit_softcapping=2.0)),
    "scaled logits": (False, CohereConfig(**WIDE, logit_scale=0.5)),
}


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind][1])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 5 if parameter.ndim > 1 else 1
    return model.eval()


@pytest.fixture
def batch():
    ids = np.random.default_rng(1).integers(0, 60, (3, 20), np.int32)
    targets = np.flatnonzero(np.random.default_rng(2).random(60) < 0.4)
    return ids, targets, np.roll(ids, -1).reshape(-1)[targets]


@pytest.mark.parametrize("kind", CONFIGS)
def test_losses_and_gradients_are_those_of_the_models_logits_in_chunks(kind, batch, monkeypatch):
    model, (ids, targets, labels) = model_of(kind), batch
    logits = model(torch.from_numpy(ids).long()).logits.flatten(0, 1)[targets]
    expected = cross_entropies(logits, torch.from_numpy(labels).long())
    slopes = torch.autograd.grad(expected.sum(), list(model.parameters()), allow_unused=True)
    sizes, nats_of = [], target_losses.linear_nats

    def counted(hidden, weight, *others):
        sizes.append(len(hidden) * len(weight))
        return nats_of(hidden, weight, *others)

    losses = TargetLosses(max_logits=500)
    losses.linear_nats = counted
    nats = losses(model, ids, targets, labels)
    assert torch.allclose(nats, expected, atol=1e-5)
    for mine, slope in zip(
        torch.autograd.grad(nats.sum(), list(model.parameters()), allow_unused=True), slopes, strict=True
    ):
        assert torch.allclose(mine, slope, atol=1e-4) if slope is not None else mine is None
    assert losses.is_plain(model) is CONFIGS[kind][0] is bool(sizes)
    assert max(sizes, default=0) <= 500, "no more logits exist at a time"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "scaled embeddings"])
def test_a_sample_of_all_other_ids_has_the_full_loss_and_the_full_gradient(kind, batch, monkeypatch):
    monkeypatch.setattr(sampled_softmax, "SAMPLED", 1000)
    model, (ids, targets, labels) = model_of(kind), batch
    losses, table = TargetLosses(2**20), model.get_output_embeddings().weight
    expected = losses(model, ids, targets, labels)
    (slope,) = torch.autograd.grad(expected.sum(), [table])
    sampled = SampledHead(model, np.arange(60, dtype=np.int32))
    sampled.train()
    others = torch.from_numpy(sampled.sample([1]))
    nats = losses(model, sampled.rows(ids), targets, sampled.rows(labels), weights=sampled.head(others))
    assert torch.allclose(nats, expected, atol=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p is not table for p in trained)
    nats.sum().backward()
    used = sampled.head(others)[0][:60]
    head = next(p for p in trained if p.shape == used.shape and torch.equal(p, used))
    assert torch.allclose(head.grad, slope[:60], atol=1e-4)
    assert torch.allclose(sampled.shift.grad, slope[60:].sum(0), atol=1e-4)
    # The model is complete again after the update, and the other embeddings have moved alike
    before = table.detach().clone()
    with torch.no_grad():
        head += 1
        sampled.shift.add_(2)
    sampled.write()
    assert torch.allclose(table[:60], before[:60] + 1) and torch.allclose(table[60:], before[60:] + 2)
    assert model.get_input_embeddings().num_embeddings == 90 and not sampled.shift.any()
    written = table.detach().clone()
    sampled.write()
    assert torch.equal(table, written), "they move once"


def test_a_sampled_softmax_learns_and_is_validated_over_the_full_vocabulary(project, monkeypatch):
    monkeypatch.setattr(sampled_softmax, "SAMPLED", 8)
    run, corpus = prepare("r", model := made(project, "llama", "sentencepiece"))
    engine = train(run, corpus, model, vocabulary="corpus", steps=30)
    rows, valid = history(run), corpus.documents("valid")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert "of 345 tokens, and a sample" in engine.choices["softmax"]
    assert engine.mean_loss(valid) == rows[-1]["valid_loss"]
    loaded = HuggingFaceEngine.load(run / "model", resume=False)
    assert loaded.mean_loss(valid) == rows[-1]["valid_loss"]
    assert loaded.model.get_output_embeddings().out_features == 345


def test_the_corpus_vocabulary_needs_complete_weights(project):
    run, corpus = prepare("r", model := made(project, "llama", "sentencepiece"))
    with pytest.raises(RequestError, match=r"set finetune\.sharding to none, or finetune\.vocabulary to full"):
        train(run, corpus, model, vocabulary="corpus", sharding="full")


def test_the_scale_of_a_sample_counts_the_other_ids():
    vocabulary = sampled_softmax.SampledVocabulary(5000, np.arange(10))
    assert vocabulary.scale * len(vocabulary.sample([1])) == pytest.approx(4990)
    assert vocabulary.sample([1]).min() >= 10 and len(set(vocabulary.sample([1]))) == sampled_softmax.SAMPLED
    assert math.isclose(vocabulary.scale, 4990 / 1024)
