"""Token layout: the ids around the texts of a document."""

from collections.abc import Iterable, Sequence

from titlesmith.corpus.tokenizer import END, Tokenizer

MARKERS = {"ids": ("", "\n", ""), "text": ("<|startoftext|>", "<|sep|>", END)}  # start, separator, stop


class TokenLayout:
    """The order of a document's ids: start, prompt, separator, completion, stop.

    The end-of-text id is between documents in every layout, so that engines need not know the layout.

    Parameters
    ----------
    tokenizer
        Encodes texts and markers.
    delimiters
        ``ids``: only a newline id between prompt and completion. ``text``: the markers of `MARKERS`, encoded as text,
        as in gpt-2-simple's CSV files. ``chat``: the markers of the model's chat template.
    has_prompt
        Whether documents have a prompt part. The attribute ``before`` has the ids before a document, and
        ``completion_tokenizer`` encodes completions and prefixes.
    bos_ids
        The first ids of documents, before the start marker. Default: the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, delimiters: str, has_prompt: bool, bos_ids: Sequence[int] | None = None):
        self.tokenizer, self.has_prompt, self.before = tokenizer, has_prompt, [tokenizer.eos_id]
        self.markers = tokenizer.chat_markers() if delimiters == "chat" else MARKERS[delimiters]
        start, separator, stop = self.markers
        # Markers are encoded separately, so that their ids do not depend on the texts next to them
        self.start, self.stop = tokenizer.marker_ids(start), tokenizer.marker_ids(stop)
        self.separator = tokenizer.marker_ids(separator) if has_prompt else []
        is_after_newline = self.separator and self.separator[-1] == tokenizer.newline_id
        self.completion_tokenizer = tokenizer.after_newline if is_after_newline else tokenizer
        bos_ids = list(tokenizer.bos_ids if bos_ids is None else bos_ids)
        if self.start[: len(bos_ids)] != bos_ids:
            self.start = [*bos_ids, *self.start]

    def join(self, prompt: str, completion: str) -> str:
        """A document as text."""
        start, separator, stop = self.markers
        return start + (prompt + separator if self.has_prompt else "") + completion + stop

    def prompt_ids(self, prompt: str, prefix: str = "") -> list[int]:
        """Ids that a model continues: the end of text before a document, the prompt, and a prefix of the completion.

        ``prompt`` is empty where documents have no prompt part.
        """
        start = [*self.before, *self.start, *self.tokenizer.encode(prompt), *self.separator]
        return start + self.completion_tokenizer.encode(prefix)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a completion, up to the stop marker where the layout has one."""
        return self.cut_at_stop(self.tokenizer.decode(ids))[0]

    def cut_at_stop(self, text: str) -> tuple[str, bool]:
        """A text up to the stop marker, and whether it contains one."""
        before, stop, _ = text.partition(self.markers[2]) if self.markers[2] else (text, "", "")
        return before, bool(stop)
