"""Use of new words: whether a model that reads a word newer than its training texts uses it."""

import re
from collections import Counter, defaultdict

from titlesmith.corpus import Corpus

WORD = re.compile(r"[^\W\d_][\w'-]*\w")  # begins with a letter, so numbers are excluded; at least two characters
EXAMPLES = 20


def words(text: str) -> set[str]:
    """The distinct words of a text, case folded, without punctuation."""
    return set(WORD.findall(text.casefold()))


def new_words(corpus: Corpus, prompts: dict[str, str]) -> dict[str, set[str]]:
    """By paper, the words of its prompt that are in no training document, neither in its prompt nor its completion."""
    own = {paper: words(prompt) for paper, prompt in prompts.items()}
    unknown = set().union(*own.values())
    for batch in corpus.scan("train").select("prompt", "completion").collect_batches():
        for column in batch:
            for text in column:
                unknown.difference_update(WORD.findall(text.casefold()))
    return {paper: of & unknown for paper, of in own.items()}


def examples(new: dict[str, set[str]], texts: dict[str, list[str]], real: dict[str, str]) -> list[dict]:
    """New words, most frequent first, with counts of prompts, and of generated and real texts that have them."""
    rows: dict[str, Counter] = defaultdict(Counter)
    for paper, of in new.items():
        generated, people = [words(text) for text in texts[paper]], words(real[paper])
        for word in of:
            uses = {"generated": sum(word in text for text in generated), "people": int(word in people)}
            rows[word].update({"prompts": 1, "texts": len(generated)} | uses)
    ranked = sorted(rows.items(), key=lambda item: (-item[1]["prompts"], -item[1]["people"], item[0]))
    return [{"word": word} | row for word, row in ranked[:EXAMPLES]]
