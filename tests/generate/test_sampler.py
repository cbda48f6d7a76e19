"""Drawing: every setting against its definition, on a tiny model whose log-probabilities come from the loss's graph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.generate import decoder, sampler
from titlesmith.generate.sampler import Beams, Row
from titlesmith.train.gpt2 import GPT2Engine, gpt2
from titlesmith.train.loop import SAMPLING

SHAPE = {"n_ctx": 64, "n_embd": 16, "n_head": 2, "n_layer": 2}
FREE = {"count": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 12, "seed": 3}
GREEDY = FREE | {"top_k": 1}


@pytest.fixture(scope="module")
def engine():
    tokenizer = Tokenizer.learn(["speech and sound"] * 3, 270)
    engine = GPT2Engine(tokenizer, SHAPE | {"n_vocab": len(tokenizer)})
    generator = np.random.default_rng(3)
    for v in engine._variables:  # far from even, so that a mistake shows
        v.load(generator.normal(v.op.name.endswith("/g"), 0.3, v.shape).astype(np.float32), engine._session)
    return engine


@pytest.fixture(scope="module")
def prompts(engine):
    end = engine.tokenizer.eos_id
    return [[end, 5, 6, 7], [end], [end, 9, 9, 9, 9, 9, 1, 2], [end, 5, 6, 7]]


def nexts(engine, ids) -> np.ndarray:
    """Log-probabilities by gpt-2-simple's graph."""
    size = len(engine.tokenizer)
    rows = np.array([[*ids, i] for i in range(size)])
    learned = np.zeros((size, len(ids)))
    learned[:, -1] = 1
    return -engine.losses(rows, learned)


@pytest.fixture(scope="module")
def logits(engine):
    """Logits behind ids by gpt-2-simple's graph."""
    with engine._session.graph.as_default():
        found = gpt2.model(engine._hparams, X=engine._ids, reuse=True)["logits"][0, -1]
    return lambda ids: engine._session.run(found, {engine._ids: [ids]})


def adjusted(engine, ids, scores, asked) -> np.ndarray:
    """What the definitions make of the scores of what follows ``ids``, the prompt's and the text's."""
    scores, end = scores.copy(), engine.tokenizer.eos_id
    for i in set(ids) - {end}:
        factor = asked.get("repetition_penalty", 1.0)
        scores[i] = scores[i] / factor if scores[i] > 0 else scores[i] * factor
    if size := asked.get("no_repeat_ngram", 0):
        before = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        for i in set(range(len(scores))) - {end}:
            if len(ids) >= size - 1 and (*ids[len(ids) - size + 1 :], i) in before:
                scores[i] = -np.inf
    return scores


def test_what_comes_next_is_what_the_loss_says(engine, prompts):
    found = engine.next(prompts)
    assert found.shape == (4, len(engine.tokenizer)) and found.dtype == np.float32
    for prompt, row in zip(prompts, found, strict=True):
        assert np.allclose(row, nexts(engine, prompt), atol=1e-4)


def test_prompts_of_unequal_lengths_go_on_as_if_each_were_alone(engine, prompts):
    asked = FREE | {"count": 5, "max_tokens": 40}  # more than the room at the start
    together = engine.generate(prompts, asked)
    for prompt, draws in list(zip(prompts, together, strict=True))[:3]:
        (alone,) = engine.generate([prompt], asked)
        assert [d.ids for d in alone] == [d.ids for d in draws]
        for draw in draws:
            ids = [*prompt, *draw.ids, *[engine.tokenizer.eos_id] * draw.finished]
            learned = np.arange(1, len(ids))[None] >= len(prompt)
            nats = engine.losses(np.array([ids]), learned.astype(float))[0]
            assert draw.logprob == pytest.approx(-nats / (len(ids) - len(prompt)), abs=1e-4)
    texts = [tuple(d.ids) for d in together[0] + together[3]]
    assert len(set(texts)) == len(texts), "a prompt that is asked for twice gets other texts"


def test_batches_and_room_do_not_change_what_is_drawn(engine, prompts, monkeypatch):
    asked = FREE | {"count": 30, "max_tokens": 40}  # so that some end early and stay in a batch for a while
    whole = engine.generate(prompts, asked)
    assert any(d.finished for draws in whole for d in draws)
    monkeypatch.setattr(sampler, "ROWS", 50)
    monkeypatch.setattr(sampler, "ROOM", 1)
    parts = engine.generate(prompts, asked)
    assert [[d.ids for d in draws] for draws in whole] == [[d.ids for d in draws] for draws in parts]


@pytest.mark.parametrize("asked", [{"count": 40, "temperature": 0.3}, {"beams": 3, "count": 3}])
def test_texts_are_read_once_while_they_are_the_same(engine, prompts, monkeypatch, asked):
    read, step = [], engine._ready()._decoder.step
    monkeypatch.setattr(engine._decoder, "step", lambda ids, *args: read.append(len(ids)) or step(ids, *args))
    shared = engine.generate([*prompts, prompts[1]], FREE | asked)
    few, read[:] = sum(read), []
    monkeypatch.setattr(sampler, "_grouped", lambda keys: [list(range(len(list(keys))))] * 2)
    apart = engine.generate([*prompts, prompts[1]], FREE | asked)
    assert [[d.ids for d in draws] for draws in shared] == [[d.ids for d in draws] for draws in apart]
    assert few == sum(read) if "beams" in asked else few < 0.9 * sum(read)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_rows_that_texts_are_copied_into_are_none_that_they_are_copied_from(origins):
    order = sampler._placed(origins)
    assert sorted(order) == list(range(len(origins)))
    holes = {row for row, text in enumerate(order) if origins[text] != row}
    assert not holes & set(origins), "what one text still needs is overwritten by another"


def test_draws_follow_the_models_probabilities(engine, prompts):
    (draws,) = engine.generate([prompts[0]], FREE | {"count": 3000, "max_tokens": 1, "temperature": 0.7})
    counts = np.zeros(len(engine.tokenizer))
    for draw in draws:
        counts[draw.ids[0] if draw.ids else engine.tokenizer.eos_id] += 1
    wanted = np.exp(nexts(engine, prompts[0]) / 0.7)
    wanted /= wanted.sum()
    deviation = np.sqrt(3000 * wanted * (1 - wanted))
    assert (np.abs(counts - 3000 * wanted) < 5 * deviation + 3).all()


@pytest.mark.parametrize("k", [1, 3, 9, 10, 40, 640])
def test_the_highest_are_those_of_all_groups(k):
    scores = np.random.default_rng(k).normal(size=(7, 640)).astype(np.float32)
    with decoder.tf.Graph().as_default(), decoder.tf1.Session() as session:
        values, ids = session.run(decoder._highest(decoder.tf.constant(scores), decoder.tf.constant(k)))
    assert np.array_equal(values, -np.sort(-scores)[:, :k])
    assert np.array_equal(ids, np.argsort(-scores)[:, :k])


@pytest.mark.parametrize("top_k", [0, 20])
def test_a_nucleus_holds_the_likeliest_that_together_reach_it(engine, prompts, top_k):
    (draws,) = engine.generate([prompts[0]], FREE | {"count": 600, "max_tokens": 1, "top_p": 0.5, "top_k": top_k})
    p = np.sort(np.exp(nexts(engine, prompts[0])))[::-1]
    p = p[: top_k or None] / p[: top_k or None].sum()
    size = int((np.cumsum(p) - p < 0.5).sum())
    allowed = set(np.argsort(-nexts(engine, prompts[0]))[:size].tolist())
    firsts = {d.ids[0] if d.ids else engine.tokenizer.eos_id for d in draws}
    assert firsts <= allowed and len(firsts) > 0.6 * size


@pytest.mark.parametrize("asked", [{}, {"repetition_penalty": 1.6}, {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}])
def test_penalty_and_n_grams_are_those_of_their_definitions(engine, prompts, logits, asked):
    found = engine.generate(prompts[:3], GREEDY | asked)
    for prompt, (draw,) in zip(prompts, found, strict=False):
        ids = list(prompt)
        for i in [*draw.ids, *[engine.tokenizer.eos_id] * draw.finished]:
            assert i == np.argmax(adjusted(engine, ids, logits(ids), asked))
            ids.append(i)


def test_a_text_does_not_end_too_early(engine, prompts):
    asked = FREE | {"count": 120, "max_tokens": 60}
    short = min(len(d.ids) for d in engine.generate([prompts[1]], asked)[0])
    draws = engine.generate([prompts[1]], asked | {"min_tokens": 25})[0]
    assert short < 25 <= min(len(d.ids) for d in draws) and any(d.finished for d in draws)


def searched(engine, prompt, asked) -> list[tuple[float, list[int]]]:
    """Beam search as transformers has it, without early stopping, in plain Python."""
    size, end, going, done = asked["beams"], engine.tokenizer.eos_id, [(0.0, [])], []
    for length in range(1, asked["max_tokens"] + 1):
        every = []
        for score, ids in going:
            scores = adjusted(engine, [*prompt, *ids], nexts(engine, [*prompt, *ids]), asked)
            if length <= asked.get("min_tokens", 0):
                scores[end] = -np.inf
            every += [(score + s, [*ids, i]) for i, s in enumerate(scores)]
        best = sorted(every, key=lambda pair: -pair[0])[: 2 * size]
        ended = [length == asked["max_tokens"] or ids[-1] == end for _, ids in best]
        done += [(s / length, ids) for (s, ids), e in list(zip(best, ended, strict=True))[:size] if e]
        done = sorted(done, key=lambda pair: -pair[0])[:size]
        going = [pair for pair, e in zip(best, ended, strict=True) if not e][:size]
        if not going or (len(done) == size and done[-1][0] >= going[0][0] / length):
            break
    return done


@pytest.mark.parametrize(
    "asked",
    [{"beams": 2}, {"beams": 4, "no_repeat_ngram": 2, "min_tokens": 2}, {"beams": 3, "repetition_penalty": 1.3}],
)
def test_beams_are_those_of_a_plain_search(engine, prompts, asked):
    asked = FREE | asked | {"count": asked["beams"], "max_tokens": 6}
    for prompt, draws in zip(prompts, engine.generate(prompts, asked), strict=True):
        wanted = searched(engine, prompt, asked)
        end = engine.tokenizer.eos_id
        assert [[*d.ids, *[end] * d.finished] for d in draws] == [ids for _, ids in wanted]
        if "repetition_penalty" not in asked:
            assert [d.logprob for d in draws] == pytest.approx([score for score, _ in wanted], abs=1e-4)


def test_beams_are_those_of_transformers(engine, prompts):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shape = SHAPE | {"vocab_size": len(engine.tokenizer), "n_positions": SHAPE["n_ctx"]}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    with torch.no_grad():
        for v in engine._variables:
            *path, kind = v.op.name.removeprefix("model/").split("/")
            if path and path[0].startswith("h"):
                path[0:1] = ["h", path[0][1:]]
            name = ".".join([*path, {"w": "weight", "g": "weight", "b": "bias"}[kind]] if path else [kind, "weight"])
            parameter = model.transformer.get_parameter(name)
            parameter.copy_(torch.from_numpy(engine._session.run(v)).reshape(parameter.shape))
    end = engine.tokenizer.eos_id
    for prompt in prompts[:3]:
        asked = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 8, "do_sample": False}
        asked |= {"eos_token_id": end, "pad_token_id": end, "early_stopping": False, "length_penalty": 1.0}
        ids = torch.tensor([prompt])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **asked)[:, len(prompt) :].tolist()
        found = [row[: row.index(end)] if end in row else row for row in found]
        (draws,) = engine.generate([prompt], FREE | {"beams": 4, "count": 4, "max_tokens": 8})
        assert [d.ids for d in draws] == found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 8))
@settings(deadline=None)
def test_what_is_banned_would_repeat_an_n_gram(ids, size, given_first):
    end, first = 3, ids[:given_first]
    row = Row(0, first, SAMPLING | {"no_repeat_ngram": size}, end)
    for i in ids[len(first) :]:
        row.add(i, 0.0)
    grams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    wanted = {i for i in range(3) if len(ids) >= size - 1 and (*ids[len(ids) - size + 1 :], i) in grams}
    assert row.banned == wanted
    assert row.branch().banned == wanted


def test_a_beam_ends_its_search_when_nothing_better_can_come():
    row = Row(0, [0], SAMPLING | {"max_tokens": 9}, 1)
    beams = Beams(row, 1)
    assert beams.go_on(np.array([[-0.1, -5.0]]), np.array([[1, 2]]), np.array([[-0.1, -5.0]])) == []
    assert [r.draw.finished for r in beams.done] == [True] and not beams.rows


def test_what_cannot_be_is_refused(engine, prompts):
    with pytest.raises(RequestError, match="3 texts of 2 beams"):
        engine.generate(prompts, FREE | {"beams": 2, "count": 3})
    with pytest.raises(RequestError, match="prompt of 8 tokens and 60 behind it exceed the model's context of 64"):
        engine.generate(prompts, FREE | {"max_tokens": 60})
    with pytest.raises(RequestError, match="min_tokens"):
        engine.generate(prompts, FREE | {"min_tokens": 13})


def test_changed_weights_are_taken_over(engine, prompts, tmp_path):
    other = GPT2Engine(engine.tokenizer, engine.hyperparameters, seed=5)
    before = other.next(prompts)
    engine.save_weights(tmp_path)
    other.load_weights(tmp_path)
    assert np.allclose(other.next(prompts), engine.next(prompts), atol=1e-6)
    assert not np.allclose(before, engine.next(prompts), atol=1e-2)


def test_bfloat16_is_near_float32_and_repeats(engine, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("titlesmith.train.gpt2.precision", lambda settings: "bfloat16")
    other = GPT2Engine(engine.tokenizer, engine.hyperparameters)
    engine.save_weights(tmp_path)
    other.load_weights(tmp_path)
    found, exact = other.next(prompts), engine.next(prompts)
    assert 0 < np.abs(np.exp(found) - np.exp(exact)).max() < 0.02
    assert other.generate(prompts, FREE) == other.generate(prompts, FREE)
