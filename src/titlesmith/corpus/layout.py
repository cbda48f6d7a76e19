"""Token layout: the ids around the texts of a document."""

from collections.abc import Iterable

from titlesmith.corpus.tokenizer import END, Tokenizer

MARKERS = {"ids": ("", "\n", ""), "text": ("<|startoftext|>", "<|sep|>", END)}  # start, separator, stop


class TokenLayout:
    """How a document stands in ids: a start, the prompt, a separator, the completion, a stop.

    Between documents there is the vocabulary's end-of-text id in any case, so that engines need not know the layout.

    Parameters
    ----------
    tokenizer
        What the ids mean.
    delimiters
        ``ids``: nothing but a newline id between prompt and completion. ``text``: the markers of `MARKERS`, spelled in
        the tokens of text, as gpt-2-simple's CSV files and the reports built on them have them. ``chat``: what the
        model's own chat template has.
    has_prompt
        Whether documents have a prompt part.
    """

    def __init__(self, tokenizer: Tokenizer, delimiters: str, has_prompt: bool):
        self.tokenizer, self.has_prompt = tokenizer, has_prompt
        self.markers = tokenizer.chat() if delimiters == "chat" else MARKERS[delimiters]
        start, separator, stop = self.markers
        # Each on its own, so that a marker has the same ids whatever stands beside it
        self.start, self.stop = tokenizer.marker(start), tokenizer.marker(stop)
        self.separator = tokenizer.marker(separator) if has_prompt else []
        if tuple(self.start[: len(tokenizer.bos_ids)]) != tokenizer.bos_ids:
            self.start = [*tokenizer.bos_ids, *self.start]

    def join(self, prompt: str, completion: str) -> str:
        """A document as text."""
        start, separator, stop = self.markers
        return start + (prompt + separator if self.has_prompt else "") + completion + stop

    def prompt_ids(self, prompt: str, prefix: str = "") -> list[int]:
        """Ids from which a model goes on: the end of text before a document, and what is given of it.

        Parameters
        ----------
        prompt
            The prompt part; empty where documents have none.
        prefix
            The beginning of the completion.
        """
        encode = self.tokenizer.encode
        return [self.tokenizer.eos_id, *self.start, *encode(prompt), *self.separator, *encode(prefix)]

    def decode(self, ids: Iterable[int]) -> str:
        """The completion that a model wrote, up to the marker of its end where the layout has one."""
        return self.cut_at_stop(self.tokenizer.decode(ids))[0]

    def cut_at_stop(self, text: str) -> tuple[str, bool]:
        """A text up to the marker of its end, and whether it has one."""
        before, found, _ = text.partition(self.markers[2]) if self.markers[2] else (text, "", "")
        return before, bool(found)
