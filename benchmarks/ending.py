"""Random weights whose texts end where titles end.

For random weights the end of text is one id of 50,257, so texts would never end. So the first coordinate of the
residual stream is reserved for the position: nothing else writes it, only the end of text reads it, and at each
position it makes the end as likely as it is among titles. All shapes and all matrix products are unchanged.
"""

from dataclasses import replace

import numpy as np

from titlesmith.generate import GenerationSettings, backend_for

SLOPE = 4.0  # by which the end of text reads its coordinate
MIN_TITLES = 20  # from which the share of a position is computed
TRIED, TRIALS = 20, 10  # values of the coordinate that are tried at a time, and texts in which each is tried


def shares(lengths: np.ndarray, positions: int) -> np.ndarray:
    """Of the titles with at least ``n`` tokens, the share with no more; for ``n`` below ``positions``.

    If few titles are that long, the share is that of all longer ones together.
    """
    ended = np.bincount(lengths, minlength=positions)
    left = ended[::-1].cumsum()[::-1]
    share = ended / np.maximum(left, 1)
    few = left < MIN_TITLES
    share[few] = ended[few].sum() / max(1, left[few].sum())
    return share[:positions]


def teach(engine, lengths: np.ndarray, settings: GenerationSettings) -> None:
    """Changes the weights of a `GPT2Engine` so that texts sampled with these settings are as long as titles.

    Parameters
    ----------
    engine
        Has random weights.
    lengths
        Tokens of each title, without its end.
    settings
        How texts are sampled; their prompts begin with the end of text.
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

    def load(positions: slice, values: np.ndarray | float) -> None:
        weights["wpe"][positions, 0] = values
        for name, v in variables.items():
            v.load(weights[name], engine._session)

    def end_probabilities(tried: np.ndarray) -> np.ndarray:
        """The probability of the end of text for each value of the coordinate, the mean over texts."""
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
    low, high = np.searchsorted(end_probabilities(tried), [1e-3, 0.5]).clip(1, TRIED - 1)
    tried = np.geomspace(tried[low - 1], tried[high], TRIED)
    values = np.interp(shares(lengths, len(weights["wpe"])), end_probabilities(tried), tried)
    values[0] -= SLOPE  # the embedding of the end of text at the beginning adds it
    load(slice(None), values)
