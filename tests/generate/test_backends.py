"""Both back ends against their model's own log-probabilities, on one tiny GPT-2 that is in both libraries."""

from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ROOT
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.generate import GenerationSettings, backend_for, ctranslate2, huggingface, save_backend
from titlesmith.generate.ctranslate2 import CTranslate2Backend
from titlesmith.generate.huggingface import Sampler, TransformersBackend
from titlesmith.generate.source import CTRANSLATE2, open_adapter_source
from titlesmith.models.gpt2_checkpoint import to_transformers
from titlesmith.settings import defaults
from titlesmith.train.gpt2 import GPT2Engine

SHAPE = {"n_ctx": 64, "n_embd": 16, "n_head": 2, "n_layer": 2}
KINDS = ["ctranslate2", "transformers"]


def settings(**changes) -> GenerationSettings:
    """Settings that exclude no token."""
    return GenerationSettings(
        **{"count": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 12, "seed": 3} | changes
    )


@pytest.fixture(scope="module")
def engine():
    """A GPT-2 with random weights whose predictions are far from even, so that a mistake shows."""
    tokenizer = Tokenizer.learn(["speech and sound"] * 3, 270)
    engine = GPT2Engine(tokenizer, SHAPE | {"n_vocab": len(tokenizer)})
    rng = np.random.default_rng(3)
    for v in engine._variables:
        v.load(rng.normal(v.op.name.endswith("/g"), 0.3, v.shape).astype(np.float32), engine._session)
    return engine


@pytest.fixture(scope="module")
def backends(engine):
    """Both back ends of the model; CTranslate2's in float32, so that the two are comparable."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for one another cost more than such a model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctranslate2, "COMPUTE_TYPE", "float32")
        exact = backend_for(engine)
        model = to_transformers(engine.weights(), engine.hyperparameters)
        yield {"ctranslate2": exact, "transformers": TransformersBackend(model, engine.tokenizer)}
    torch.set_num_threads(threads)


@pytest.fixture(params=KINDS)
def backend(request, backends):
    return backends[request.param]


@pytest.fixture(scope="module")
def prompts(engine):
    end = engine.tokenizer.eos_id
    return [[end, 5, 6, 7], [end], [end, 9, 9, 9, 9, 9, 1, 2], [end, 5, 6, 7]]


def next_logprobs(engine, ids) -> np.ndarray:
    """Log-probabilities of the next token by gpt-2-simple's graph."""
    size = len(engine.tokenizer)
    loss_mask = np.zeros((size, len(ids)))
    loss_mask[:, -1] = 1
    return -engine.losses(np.array([[*ids, i] for i in range(size)]), loss_mask)


def mean_logprob(engine, prompt, completion) -> float:
    """The log-probability of a completion by gpt-2-simple's graph."""
    ids = [*prompt, *completion.ids, *[engine.tokenizer.eos_id] * completion.finished]
    loss_mask = np.arange(1, len(ids))[None] >= len(prompt)
    return -engine.losses(np.array([ids]), loss_mask.astype(float))[0] / (len(ids) - len(prompt))


def test_the_next_tokens_log_probabilities_are_those_of_gpt_2_simples_graph(engine, backend, prompts):
    found = backend.next_token_logprobs(prompts)
    assert found.shape == (4, len(engine.tokenizer)) and found.dtype == np.float32
    for prompt, row in zip(prompts, found, strict=True):
        np.testing.assert_allclose(row, next_logprobs(engine, prompt), atol=2e-5)


def test_int8_is_close_to_float32(engine, prompts):
    found = np.exp(backend_for(engine).next_token_logprobs(prompts))
    exact = np.exp([next_logprobs(engine, prompt) for prompt in prompts])
    assert 0 < np.abs(found - exact).max() < 0.02


CASES = {
    "free": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.5},
    "greedy": {"top_k": 1},
    "min_tokens": {"min_tokens": 11},
    "penalty": {"repetition_penalty": 1.5},
    "ngram": {"no_repeat_ngram": 2, "min_tokens": 2},
    "beams": {"beams": 4},
    "beams, ngram": {"beams": 4, "no_repeat_ngram": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_of_completions_are_the_models_own(engine, backend, prompts, case):
    chosen = settings(count=3, **CASES[case])
    found = backend.generate(prompts, chosen)
    assert found == backend.generate(prompts, chosen), "the same seed, the same texts"
    assert [len(completions) for completions in found] == [chosen.count] * 4
    for prompt, completions in zip(prompts, found, strict=True):
        for completion in completions:
            assert engine.tokenizer.eos_id not in completion.ids
            assert completion.finished or len(completion.ids) == chosen.max_tokens
            assert completion.logprob == pytest.approx(mean_logprob(engine, prompt, completion), abs=1e-4)
    texts = {tuple(completion.ids) for completion in found[0] + found[3]}
    assert len(texts) == {"greedy": 1, "beams": 3, "beams, ngram": 3}.get(case, 6)


def test_another_seed_samples_other_texts(backend, prompts):
    assert backend.generate(prompts, settings()) != backend.generate(prompts, settings(seed=4))
    assert backend.generate(prompts, settings(seed=(3, 0))) != backend.generate(prompts, settings(seed=(3, 1)))


def test_samples_follow_the_models_probabilities(engine, backend, prompts):
    (completions,) = backend.generate([prompts[0]], settings(count=3000, max_tokens=1, temperature=0.7))
    firsts = [(c.ids or [engine.tokenizer.eos_id])[0] for c in completions]
    counts = np.bincount(firsts, minlength=len(engine.tokenizer))
    expected = np.exp(next_logprobs(engine, prompts[0]) / 0.7)
    expected /= expected.sum()
    assert (np.abs(counts - 3000 * expected) < 5 * np.sqrt(3000 * expected * (1 - expected)) + 3).all()


@pytest.mark.parametrize("top_k", [0, 20])
def test_top_k_comes_before_top_p(engine, backend, prompts, top_k):
    (completions,) = backend.generate([prompts[0]], settings(count=600, max_tokens=1, top_p=0.5, top_k=top_k))
    order = np.argsort(-next_logprobs(engine, prompts[0]))[: top_k or None]
    p = np.exp(next_logprobs(engine, prompts[0]))[order]
    size = int((np.cumsum(p / p.sum()) - p / p.sum() < 0.5).sum())
    firsts = {(c.ids or [engine.tokenizer.eos_id])[0] for c in completions}
    assert firsts <= set(order[:size].tolist()) and len(firsts) > 0.6 * size


def test_a_nucleus_is_found_without_sorting_the_vocabulary(monkeypatch):
    monkeypatch.setattr(huggingface, "CANDIDATES", 8)
    sizes, topk = [], torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, k, *args: sizes.append(k) or topk(self, k, *args))
    scores = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1))
    scores[:, 77] = 20

    def unchanged(_, scores):
        return scores

    left = Sampler(unchanged, settings(top_p=0.9), 1)(torch.zeros(4, 1), scores)
    assert left.argmax(1).tolist() == [77] * 4 and sizes == [8]
    scores[0] = 0  # an even row, whose nucleus is most of the vocabulary
    Sampler(unchanged, settings(top_p=0.9), 1)(torch.zeros(4, 1), scores)
    assert sizes == [8, 8, 1000]


@pytest.mark.parametrize("chosen", [{"repetition_penalty": 1.6}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}])
def test_both_back_ends_penalize_repetitions_of_prompt_and_text_alike(backends, prompts, chosen):
    chosen = settings(top_k=1, **chosen)
    texts = [[c.ids for some in backends[kind].generate(prompts, chosen) for c in some] for kind in KINDS]
    assert texts[0] == texts[1]
    plain = [c.ids for some in backends["ctranslate2"].generate(prompts, settings(top_k=1)) for c in some]
    assert texts[0] != plain
    if chosen.no_repeat_ngram == 1:
        for prompt, ids in zip(prompts, texts[0], strict=True):
            assert len({*prompt[1:], *ids}) == len(ids) + len({*prompt[1:]})


def test_texts_are_at_least_as_long_as_min_tokens(backend, prompts):
    short = min(len(c.ids) for c in backend.generate([prompts[1]], settings(count=40, max_tokens=40))[0])
    found = backend.generate([prompts[1]], settings(count=40, max_tokens=40, min_tokens=20))[0]
    assert short < 20 <= min(len(c.ids) for c in found) and any(c.finished for c in found)


def test_beams_are_distinct_and_come_best_first(backend, prompts):
    for completions in backend.generate(prompts, settings(beams=4, count=4)):
        assert len({(*c.ids, c.finished) for c in completions}) == 4
        assert [c.logprob for c in completions] == sorted((c.logprob for c in completions), reverse=True)


def test_more_texts_than_fit_in_parallel_come_in_several_batches(backend, prompts, monkeypatch):
    for module in (ctranslate2, huggingface):
        monkeypatch.setattr(module, "MAX_ROWS", 5)
    found = backend.generate(prompts, settings(count=4, max_tokens=6))
    assert [len(completions) for completions in found] == [4] * 4
    assert len({tuple(c.ids) for completions in found for c in completions}) == 16


def test_long_prompts_that_are_equal_are_read_once(backends, prompts):
    backend, chosen = backends["ctranslate2"], settings(max_tokens=5, count=2)
    asked = [prompts[2], prompts[0], prompts[2], prompts[2]]
    batches = list(backend._batches(asked, chosen))
    assert batches == [[(prompts[2], [0, 0, 2, 2, 3, 3])], [(prompts[0], [1, 1])]]
    search = settings(max_tokens=5, beams=2, count=2)
    assert next(backend._batches(asked, search)) == [(prompts[2], [i, i]) for i in (0, 2, 3)]
    found = backend.generate(asked, chosen)
    assert [len(completions) for completions in found] == [2] * 4
    assert len({tuple(c.ids) for completions in found for c in completions}) == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beams": 2, "count": 3}, "3 texts of 2 beams"),
        ({"beams": 2, "best_of": 2}, "best_of"),
        ({"min_tokens": 13}, "13 is more than max_tokens, 12"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error(changes, said):
    with pytest.raises(RequestError, match=said):
        settings(**changes)


def test_greedy_decoding_has_one_text(backend, prompts):
    assert [len(completions) for completions in backend.generate(prompts, settings(top_k=1, count=5))] == [1] * 4


@pytest.mark.parametrize("count", [1, 2])
def test_a_listener_gets_each_id_and_can_end_the_generation(backend, prompts, count):
    heard = [[] for _ in prompts]
    found = backend.generate(prompts, settings(count=count), lambda i, token: heard[i].append(token))
    if count == 1:
        for ids, (completion,) in zip(heard, found, strict=True):
            assert ids[: len(completion.ids)] == completion.ids

    with pytest.raises(CancelledError):
        backend.generate(prompts, settings(count=count), lambda i, token: True)


def test_default_settings_are_those_of_the_notebook():
    assert GenerationSettings.of(defaults("generate")) == GenerationSettings()


def test_a_saved_model_generates_as_the_engine(engine, prompts, tmp_path):
    expected, before = backend_for(engine).generate(prompts, settings()), engine.weights()
    save_backend(engine, tmp_path)
    save_backend(engine, tmp_path)
    assert all(np.array_equal(value, engine.weights()[name]) for name, value in before.items())
    saved = CTranslate2Backend(tmp_path / CTRANSLATE2, engine.hyperparameters, engine.tokenizer)
    assert saved.generate(prompts, settings()) == expected


def test_temporary_files_are_deleted_with_the_back_end(engine):
    backend = backend_for(engine)
    folder = Path(backend._folder)
    assert folder.is_dir()
    del backend
    assert not folder.exists()


def test_without_cuda_the_processor_generates_and_says_so(engine, prompts, monkeypatch):
    monkeypatch.setattr(ctranslate2.ctranslate2, "get_cuda_device_count", lambda: 1)
    backend = backend_for(engine)
    assert "not on the GPU: " in backend.device and backend.device.startswith("CPU")
    assert backend.generate(prompts, settings())


def test_a_published_adapter_is_opened_in_its_model(project):
    from tiny import adapter, made
    from titlesmith import models
    from titlesmith.models.weights import read

    name, path = made(project, "llama", "sentencepiece"), adapter(project)
    adapted, folder = open_adapter_source(path).open(), models.folder(name)
    bare = TransformersBackend(read(folder, "none"), Tokenizer.load(folder))
    prompt = TokenLayout(adapted.tokenizer, "ids", True).prompt_ids("An abstract.")
    assert not np.allclose(*(some.next_token_logprobs([prompt]) for some in (bare, adapted)), atol=1e-3)
    assert len(adapted.generate([prompt], settings(count=3))[0]) == 3
    with pytest.raises(RequestError, match="nowhere is not an adapter saved by peft"):
        open_adapter_source(project / "nowhere", name)
    with pytest.raises(RequestError, match="does not fit the model"):
        open_adapter_source(adapter(project, width=64), name).open()


def test_ids_after_the_tokenizers_last_are_never_sampled(project):
    from tiny import made
    from titlesmith import models
    from titlesmith.models.weights import read

    folder = models.folder(made(project, "qwen2"))  # its embeddings have 24 rows more
    backend = TransformersBackend(read(folder, "none"), Tokenizer.load(folder))
    end, size = backend.tokenizer.eos_id, len(backend.tokenizer)
    assert backend.next_token_logprobs([[end]]).shape == (1, size)
    (completions,) = backend.generate([[end]], settings(count=200, max_tokens=8))
    assert max(max(c.ids, default=0) for c in completions) < size


def test_no_part_of_generation_imports_tensorflow_or_torch_before_it_is_used():
    import subprocess
    import sys

    code = "import sys, titlesmith.generate; print({'torch', 'tensorflow', 'transformers'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout.strip() == "set()"
