"""Use of new words: whether a model that reads a word newer than its training texts uses it."""

import re
from collections import defaultdict

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.measurement import Measurement, MissingError, ratio

WORD = re.compile(r"[^\W\d_][\w'-]*\w")  # begins with a letter, so numbers are excluded; at least two characters
EXAMPLES = 20


def words(text: str) -> set[str]:
    """The distinct words of a text, case folded, without punctuation."""
    return set(WORD.findall(text.casefold()))


def new_words(corpus: Corpus, prompts: dict[str, str]) -> dict[str, set[str]]:
    """The words of each paper's prompt that are in no training document, neither in its prompt nor its completion.

    Parameters
    ----------
    corpus
        Its train split is read in batches.
    prompts
        Prompts by paper.
    """
    own = {paper: words(prompt) for paper, prompt in prompts.items()}
    unknown = set().union(*own.values())
    for batch in corpus.scan("train").select("prompt", "completion").collect_batches():
        for column in batch:
            for text in column:
                unknown.difference_update(WORD.findall(text.casefold()))
    return {paper: of & unknown for paper, of in own.items()}


def future_use(new: dict[str, set[str]], texts: dict[str, list[str]], seed: int) -> Measurement:
    """The share of pairs of a prompt's new word and a text for that prompt in which the text has the word.

    Parameters
    ----------
    new
        New words of each paper's prompt.
    texts
        The texts for each paper's prompt.
    seed
        Of the bootstrap over papers.

    Raises
    ------
    MissingError
        No prompt has a new word.
    """
    if not any(new.values()):
        raise MissingError("no prompt has a word that is newer than the training texts")
    pairs = np.array([len(new[paper]) * len(of) for paper, of in texts.items()])
    used = np.array([sum(len(new[paper] & words(text)) for text in of) for paper, of in texts.items()])
    return ratio(used, pairs, seed)


def examples(new: dict[str, set[str]], texts: dict[str, list[str]], real: dict[str, str]) -> list[dict]:
    """New words, most frequent first, with counts of prompts, and of generated and real texts that have them."""
    rows: dict[str, dict] = defaultdict(lambda: {"prompts": 0, "generated": 0, "texts": 0, "people": 0})
    for paper, of in new.items():
        generated, people = [words(text) for text in texts[paper]], words(real[paper])
        for word in of:
            row = rows[word]
            row["prompts"] += 1
            row["people"] += word in people
            row["generated"] += sum(word in text for text in generated)
            row["texts"] += len(generated)
    ranked = sorted(rows.items(), key=lambda item: (-item[1]["prompts"], -item[1]["people"], item[0]))
    return [{"word": word} | row for word, row in ranked[:EXAMPLES]]
