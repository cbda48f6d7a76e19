"""Token layout: the ids around the texts of a document."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer as Codec
from tokenizers.processors import TemplateProcessing

from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RequestError

MARKERS = {"ids": ("", "\n", ""), "text": ("<|startoftext|>", "<|sep|>", END)}  # start, separator, stop


class TokenLayout:
    """The order of a document's ids: start, prompt, separator, completion, stop.

    The end-of-text id is between documents in every layout, so that engines need not know the layout. ``delimiters``
    are ``ids`` (only a newline id between prompt and completion), ``text`` (the markers of `MARKERS`, encoded as text,
    as in gpt-2-simple's CSV files) or ``chat`` (the markers of the model's chat template). ``before`` are the ids
    before a document; ``completion_tokenizer`` encodes completions and prefixes.
    """

    def __init__(self, tokenizer: Tokenizer, delimiters: str, has_prompt: bool):
        self.tokenizer, self.has_prompt, self.before = tokenizer, has_prompt, [tokenizer.eos_id]
        self.markers = tokenizer.chat_markers() if delimiters == "chat" else MARKERS[delimiters]
        # Markers are encoded separately, so that their ids do not depend on the texts next to them
        encode = tokenizer.marker_ids if delimiters == "chat" else tokenizer.encode
        self.start, separator, self.stop = map(encode, self.markers)
        if delimiters == "ids":
            separator = [tokenizer.newline_id]
            if has_prompt and tokenizer.newline_id is None:
                raise RequestError(
                    "corpus.delimiters: this model's vocabulary has no newline to put between a prompt and its "
                    "completion; set it to text"
                )
        self.separator = separator if has_prompt else []
        is_after_newline = self.separator and self.separator[-1] == tokenizer.newline_id
        self.completion_tokenizer = tokenizer.after_newline if is_after_newline else tokenizer
        bos_ids = list(tokenizer.bos_ids)
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

    def save_for_transformers(self, context: int, folder: Path) -> None:
        """Writes a tokenizer that adds the same ids as `prompt_ids` itself.

        A text is a prompt, or a prefix where documents have no prompt; a pair of texts is a prompt and a prefix, before
        which SentencePiece adds a space. No text encodes to a special token, unless the model has a chat template,
        which needs that. ``context`` is the maximum length of the model's input in tokens.
        """
        codec, eos_id = Codec.from_str(self.tokenizer.codec.to_str()), self.tokenizer.eos_id
        added = {"before": [eos_id, *self.start], "between": self.separator}
        special = [{"id": name, "ids": ids, "tokens": list(map(codec.id_to_token, ids))} for name, ids in added.items()]
        single = ["before", "$A", *(["between"] if self.separator else [])]
        codec.post_processor = TemplateProcessing(
            single=single, pair=[*single, "$B"], special_tokens=[token for token in special if token["ids"]]
        )
        settings = {key: value for key, value in self.tokenizer.settings.items() if key != "bos_ids"} | {
            "eos_token": codec.id_to_token(eos_id),
            "pad_token": codec.id_to_token(eos_id),
            "padding_side": "left",
            "model_max_length": context,
            "split_special_tokens": "chat_template" not in self.tokenizer.settings,
        }
        Tokenizer(codec, settings).save(folder)
