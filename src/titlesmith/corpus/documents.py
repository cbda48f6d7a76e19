"""Documents: the token ids of a split as one memory-mapped array."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.runs import replacing


@dataclass
class Documents:
    """The documents of one split; ``documents[i]`` has the ids of one, with the end of text after it."""

    ids: np.ndarray  # an end of text, then each document followed by an end of text
    starts: np.ndarray  # positions of the documents in ids, and the end of the last one
    targets: np.ndarray  # in each document, first and end of the ids that the loss counts, shape (documents, 2)
    tokenizer: Tokenizer

    @classmethod
    def open(cls, path: Path, tokenizer: Tokenizer) -> "Documents":
        """Reads ``<split>.bin`` (``path``) and ``<split>.bounds``, a row for each document: its start and targets."""
        # A plain array over the map, because slicing a memmap takes as long as packing a document
        ids = np.asarray(np.memmap(path, _dtype(tokenizer), mode="r"))
        bounds = np.fromfile(path.with_suffix(".bounds"), np.int64).reshape(-1, 3)
        return cls(ids, np.append(bounds[:, 0], len(ids)), bounds[:, 1:], tokenizer)

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]], targets: np.ndarray, tokenizer: Tokenizer) -> "Documents":
        """Documents in memory, from the ids of each without an end of text, and `targets`."""
        ids, sizes = _join(documents, tokenizer)
        return cls(np.append(tokenizer.eos_id, ids), np.cumsum([1, *sizes]), targets, tokenizer)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """Ids of document ``i`` with the end of text after it, shape (tokens,)."""
        return self.ids[self.starts[i] : self.starts[i + 1]].astype(np.int32)

    def subset(self, chosen: np.ndarray) -> "Documents":
        """The documents with these indices; their ids are in memory unless they are all."""
        if len(chosen) == len(self):
            return self
        return Documents.of([self[i][:-1] for i in chosen], self.targets[chosen], self.tokenizer)

    @property
    def target_tokens(self) -> int:
        """The number of ids that the loss counts, in all documents."""
        return int((self.targets[:, 1] - self.targets[:, 0]).sum())

    def loss_mask(self, i: int) -> np.ndarray:
        """Which ids of document ``i`` the loss counts, float32, shape (tokens,): those of its text or completion.

        The end of text after a document that was cut does not count, because the text did not end there.
        """
        mask = np.zeros(self.starts[i + 1] - self.starts[i], np.float32)
        mask[slice(*self.targets[i])] = 1
        return mask


@contextmanager
def writing_documents(path: Path, tokenizer: Tokenizer) -> Iterator[Callable]:
    """In the ``with`` block, a function that writes documents, each without an end of text, and their targets."""
    bounds, dtype = [np.zeros((0, 3), np.int64)], _dtype(tokenizer)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.array([tokenizer.eos_id], dtype).tofile(file)

        def write(documents: Sequence[Sequence[int]], targets: np.ndarray) -> None:
            ids, sizes = _join(documents, tokenizer)
            starts = file.tell() // np.dtype(dtype).itemsize + np.cumsum(sizes) - sizes
            ids.astype(dtype).tofile(file)
            bounds.append(np.column_stack([starts, targets]))

        yield write
    with replacing(path.with_suffix(".bounds")) as temporary:
        np.concatenate(bounds).tofile(temporary)


def _join(documents: Sequence[Sequence[int]], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The ids of documents, each followed by an end of text, and their sizes with it."""
    ids = [i for document in documents for i in (*document, tokenizer.eos_id)]
    return np.array(ids, np.int64), np.array([len(document) + 1 for document in documents], np.int64)


def _dtype(tokenizer: Tokenizer) -> type:
    """The smallest unsigned type for its ids."""
    return np.uint16 if len(tokenizer) <= 2**16 else np.uint32
