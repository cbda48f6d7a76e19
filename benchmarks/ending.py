"""Random weights whose texts end where titles end.

To random weights the end of text is one id of 50,257: no text would end, and nothing could be said of a program that
stops there. So the stream's first coordinate is given to the place alone: nothing else writes it, the end of text alone
reads it, and at each place it makes the end as likely as it is among titles. All shapes and all products stay as they
are.
"""

from dataclasses import replace

import numpy as np

from titlesmith.generate import backend_for

SLOPE = 4.0  # by which the end of text reads its coordinate
RISK = 20  # titles that a place's share is told from, at least
TRIED, TRIALS = 20, 10  # values of the coordinate that are tried at a time, and texts that each is tried in


def shares(lengths: np.ndarray, places: int) -> np.ndarray:
    """Of the titles with at least ``n`` tokens, the share with no more; for ``n`` below ``places``.

    Where few titles are that long, the share is that of all longer ones together.
    """
    ended = np.bincount(lengths, minlength=places)
    left = ended[::-1].cumsum()[::-1]
    share = ended / np.maximum(left, 1)
    few = left < RISK
    share[few] = ended[few].sum() / max(1, left[few].sum())
    return share[:places]


def teach(engine, lengths: np.ndarray, settings: dict) -> None:
    """Changes the weights of a `GPT2Engine` so that its texts, drawn with these settings, are as long as titles.

    Parameters
    ----------
    engine
        Has random weights.
    lengths
        Tokens of each title, without its end.
    settings
        How texts are sampled; their prompts open with an end of text.
    """
    end, temperature, k = engine.tokenizer.eos_id, settings.temperature, settings.top_k
    variables = {v.op.name.removeprefix("model/"): v for v in engine._variables}
    weights = {name: engine._session.run(v) for name, v in variables.items()}
    for name, value in weights.items():
        if "c_proj" in name or name in ("wte", "wpe", "ln_f/b"):
            value[..., 0] = 0
    weights["wte"][end] = 0
    weights["wte"][end, 0] = SLOPE
    weights["ln_f/g"][0] = 1

    def load(place: slice, values: np.ndarray | float) -> None:
        weights["wpe"][place, 0] = values
        for name, v in variables.items():
            v.load(weights[name], engine._session)

    def drawn(tried: np.ndarray) -> np.ndarray:
        """How likely the end is drawn, by what stands in the coordinate: the mean over texts."""
        load(slice(1, len(tried) + 1), tried)
        prompts = [[end, *text[: n + 1]] for n in range(len(tried)) for text in texts]
        logits = backend_for(engine).next_token_logprobs(prompts) / temperature
        mine, best = logits[:, end].copy(), np.partition(logits, -k)[:, -k:]
        chance = np.where(mine < best.min(1), 0, np.exp(mine - np.logaddexp.reduce(best, axis=1)))
        return np.maximum.accumulate(chance.reshape(-1, TRIALS).mean(1))

    load(slice(None), 0.0)
    long = replace(settings, max_tokens=TRIED, min_tokens=TRIED, count=TRIALS)
    texts = [completion.ids for completion in backend_for(engine).generate([[end]], long)[0]]
    tried = np.geomspace(1e-2, 1e2, TRIED)
    low, high = np.searchsorted(drawn(tried), [1e-3, 0.5]).clip(1, TRIED - 1)
    tried = np.geomspace(tried[low - 1], tried[high], TRIED)
    found = np.interp(shares(lengths, len(weights["wpe"])), drawn(tried), tried)
    found[0] -= SLOPE  # which the end that opens a text brings along
    load(slice(None), found)
