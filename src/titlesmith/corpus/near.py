"""Near-duplicates: texts that are almost those of an earlier paper, such as a talk's and its journal article's."""

import zlib
from collections.abc import Iterable

from datasketch import MinHash, MinHashLSH

RUN = 5  # characters


def near_duplicates(texts: Iterable[tuple[int, str]], threshold: float) -> list[int]:
    """Finds texts that are like an earlier one that is kept.

    Two texts are compared by the sets of their runs of five characters, case folded: the share that is common to both
    among all of either (Jaccard). Candidates come from MinHash signatures of 128 values and locality-sensitive hashing
    (Broder 1997; Leskovec et al. 2020, chapter 3), and each is then compared exactly; a pair just above the threshold
    can be missed. 100,000 titles take some 20 seconds and 300 MB; memory grows with the texts that are kept.

    Parameters
    ----------
    texts
        Numbers and texts.
    threshold
        Similarity from which on a text counts as the same, in (0, 1].

    Returns
    -------
    list of int
        The numbers of the later ones.
    """
    # The index takes no threshold above 0.98; candidates are compared exactly in any case
    index, empty = MinHashLSH(threshold=min(threshold, 0.98), num_perm=128), MinHash(num_perm=128, hashfunc=zlib.crc32)
    kept: dict[int, str] = {}
    repeats = []
    for number, text in texts:
        runs, signature = _runs(text), empty.copy()
        signature.update_batch(runs)
        if any(_similarity(runs, _runs(kept[other])) >= threshold for other in index.query(signature)):
            repeats.append(number)
        else:
            index.insert(number, signature)
            kept[number] = text
    return repeats


def _runs(text: str) -> set[bytes]:
    folded = text.casefold().encode()
    return {folded[i : i + RUN] for i in range(max(1, len(folded) - RUN + 1))}


def _similarity(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)
