"""Titles for a file of abstracts, such as those of `titlesmith.harvest.abstracts`, for runs that title abstracts."""

from titlesmith.corpus import Corpus
from titlesmith.generate import GenerationSettings, open_backend
from titlesmith.harvest import abstracts
from titlesmith.runs import Run, root

COUNT = 3  # titles per abstract
TOKENS, MIN_TOKENS = 48, 8  # maximum length of a title, and the room that it needs at least


def titles(run: Run, corpus: Corpus, settings: dict) -> list[dict]:
    """Titles that a run's model writes for the abstracts of a file, sampled as the run's texts were.

    Parameters
    ----------
    run, corpus
        The run, and what its model was trained on.
    settings
        ``path`` of the file, relative to the project, and ``seed``.

    Returns
    -------
    list of dict
        For each abstract its real ``title``, and the generated ``titles``, likeliest first, or ``why`` there are none.
        Empty where the template does not make titles of abstracts, or the file does not exist.
    """
    papers = abstracts.read(root() / settings["path"]) if abstracts.takes(corpus.template) else []
    if not papers:
        return []
    rows, backend, lower = [], open_backend(run), run.record("corpus")["settings"]["lowercase"]
    own = run.record("generate")["settings"] | {"unique": False, "best_of": 1, "beams": 1, "min_tokens": 0}
    for title, abstract in papers:
        prompt = corpus.template.fill_prompt({"abstract": abstract.lower() if lower else abstract})
        opening = corpus.layout.prompt_ids(prompt)
        tokens = min(TOKENS, backend.context - len(opening))
        if tokens < MIN_TOKENS:
            why = f"the abstract has {len(opening):,} tokens, and the model's context is {backend.context:,}"
            rows.append({"title": title, "titles": [], "why": why})
            continue
        own |= {"seed": settings["seed"], "count": COUNT, "max_tokens": tokens}
        (completions,) = backend.generate([opening], GenerationSettings.of(own))
        completions.sort(key=lambda completion: -completion.logprob)
        rows.append({"title": title, "titles": [corpus.layout.decode(completion.ids) for completion in completions]})
    return rows
