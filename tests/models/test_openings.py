"""Tokens before a document, compared by a model's loss."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import corpus_settings
from tiny import defaults, made
from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.harvest import harvest
from titlesmith.runs import Run
from titlesmith.train import start_engine


@pytest.fixture
def model(project):
    """A tiny LLaMA that prefers documents after its unknown token, and whose tokenizer names that token."""
    name = made(project, "llama", unk_token="<|im_start|>")
    folder = project / "models" / "llama"
    weights, tokenizer = AutoModelForCausalLM.from_pretrained(folder), Tokenizer.load(folder)
    start, end = (tokenizer.vocabulary[f"<|im_{name}|>"] for name in ("start", "end"))
    optimizer, generator = torch.optim.AdamW(weights.parameters(), 0.01), torch.Generator().manual_seed(1)
    for _ in range(40):
        # Any token after the one, always the same token after the other
        rows = torch.randint(0, start, (8, 12), generator=generator)
        rows[:, 0], rows[4:] = start, 5
        rows[4:, 0] = end
        weights(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    weights.save_pretrained(folder)
    return name


def test_losses_are_those_of_documents_alone(project):
    model = made(project, "llama")
    network = AutoModelForCausalLM.from_pretrained(project / "models" / "llama")
    documents, openings = [[5, 6, 7], [8, 9], [10], [11, 12, 13, 14], [15], []], [[1], [2, 3]]
    for opening, nats in zip(openings, models.measure_openings(model, openings, documents), strict=True):
        total = 0.0
        for document in filter(None, documents):
            logits = network(input_ids=torch.tensor([opening + document])).logits[0].log_softmax(-1)
            total -= sum(logits[len(opening) + i - 1, token].item() for i, token in enumerate(document))
        assert nats == pytest.approx(total / sum(map(len, documents)), abs=1e-4)


def test_documents_are_between_the_tokens_that_the_model_expects(project, model):
    run = Run("r")
    run.begin("harvest", facts := defaults("harvest", source="sample", num_papers=80))
    harvest(run, facts)
    run.begin("corpus", settings := corpus_settings(model=model))
    measure = partial(models.measure_openings, model)
    corpus = corpora.build(run, settings, models.vocabulary(model), models.context(model), measure)
    nats = corpus.info["opening"]["nats_per_token"]
    assert min(nats, key=nats.get) == "<|im_start|>" and set(nats) == {"<|im_start|>", "<|im_end|>"}
    expected = corpus.tokenizer.vocabulary["<|im_start|>"]
    assert corpus.info["opening"]["end_of_text"] == "<|im_start|>"
    assert corpus.tokenizer.eos_id == expected and corpus.layout.prompt_ids("")[0] == expected
    assert np.count_nonzero(corpus.documents("train").ids == expected) == len(corpus.documents("train")) + 1
    assert start_engine(run, model, corpus, seed=1).tokenizer.eos_id == expected
