"""Vocabularies of published models: whatever a ``tokenizer.json`` of the tokenizers library describes."""

import json
from functools import cached_property
from pathlib import Path
from threading import local

from tokenizers import Tokenizer as Codec
from tokenizers.processors import TemplateProcessing

from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RequestError
from titlesmith.runs import replacing

CODEC, TEMPLATE = "tokenizer.json", "chat_template.jinja"
SETTINGS = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
NEWLINES = ("Ċ", "<0x0A>", "\n")  # of byte-level BPE, of sentencepiece's byte fallback, of character vocabularies
QUESTION, ANSWER = "\ue000", "\ue001"  # places in a chat template; for private use, so in no template


def published(tokenizer: Tokenizer) -> "Pretrained":
    """The same vocabulary in the form in which models of the transformers library have it."""
    if isinstance(tokenizer, Pretrained):
        return tokenizer
    codec = Codec.from_str(tokenizer._codec.to_str())
    codec.add_special_tokens([END])
    return Pretrained(codec.to_str(), {"eos_token": END, "bos_token": END})


def save_alone(layout: TokenLayout, context: int, folder: Path) -> tuple[str, ...]:
    """Writes a vocabulary for use without titlesmith, and gives the names of its files.

    The tokenizer that transformers reads from them adds the same ids as `TokenLayout.prompt_ids`: a text is a prompt,
    or a prefix where documents have no prompt, and a pair of texts is a prompt and a prefix. No text encodes to a
    special token, as here, unless the model has a chat template, which needs that.

    Parameters
    ----------
    layout
        Its vocabulary is written.
    context
        The longest row that the model reads, in tokens.
    folder
        Where to write.
    """
    tokenizer = published(layout.tokenizer)
    codec, pieces = Codec.from_str(tokenizer._json), tokenizer._pieces
    around = {"before": [tokenizer.eos_id, *layout.start], "between": layout.separator}
    named = [{"id": name, "ids": ids, "tokens": [pieces[i] for i in ids]} for name, ids in around.items() if ids]
    single = ["before", "$A", *(["between"] if layout.separator else [])]
    codec.post_processor = TemplateProcessing(single=single, pair=[*single, "$B"], special_tokens=named)
    codec.no_padding()
    codec.no_truncation()
    settings = {
        "eos_token": pieces[tokenizer.eos_id],
        "pad_token": pieces[tokenizer.eos_id],
        "padding_side": "left",
        "model_max_length": context,
        "split_special_tokens": "chat_template" not in tokenizer._settings,
    }
    return _write(folder, codec.to_str(), tokenizer._settings | settings)


def _write(folder: Path, codec: str, settings: dict) -> tuple[str, ...]:
    common = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # GPT-2 would add the embeddings of token types
    }
    contents = {CODEC: codec, "tokenizer_config.json": json.dumps(common | settings, indent=2)}
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(content, "utf-8")
    return tuple(contents)


class Pretrained(Tokenizer):
    """A vocabulary of any form: byte-level, sentencepiece's, or another.

    Special tokens are ids of their own that no text encodes to: one that spells them is spelled out.

    Parameters
    ----------
    codec
        The content of tokenizer.json.
    settings
        ``eos_token`` or ``eos_token_id``, the end of text, and where it has them ``bos_token`` and ``chat_template``.
    """

    def __init__(self, codec: str, settings: dict):
        self._json, self._settings, self._threads = codec, settings, local()
        self.vocabulary = self._codec.get_vocab(with_added_tokens=True)
        self._length = max(self.vocabulary.values()) + 1
        self.eos_id = self._end()
        self.newline_id = next((self.vocabulary[piece] for piece in NEWLINES if piece in self.vocabulary), None)
        whole, bare = (self._codec.encode("a", add_special_tokens=special).ids for special in (True, False))
        self.bos_ids = tuple(whole[: next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)])

    def __len__(self) -> int:
        return self._length

    def _end(self) -> int:
        token = self._settings.get("eos_token")
        found = self.vocabulary.get(token["content"] if isinstance(token, dict) else token)
        found = self._settings.get("eos_token_id") if found is None else found
        if isinstance(found, list):
            found = found[0]
        if found is None:
            raise RequestError(
                "model: its vocabulary says of no token that it ends a text: tokenizer_config.json needs eos_token"
            )
        return found

    @property
    def _codec(self) -> Codec:
        if not hasattr(self._threads, "codec"):
            codec = self._threads.codec = Codec.from_str(self._json)
            codec.no_padding()
            codec.no_truncation()
            codec.encode_special_tokens = True
        return self._threads.codec

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._codec.get_vocab(with_added_tokens=False).keys() - {self._pieces[self.eos_id]})

    @classmethod
    def load(cls, folder: Path) -> "Pretrained":
        """Reads a folder's ``tokenizer.json`` and what stands beside it, or has transformers convert an older form."""
        settings: dict = {}
        for name in SETTINGS:
            if (folder / name).exists():
                settings |= json.loads((folder / name).read_text("utf-8"))
        if (folder / TEMPLATE).exists():
            settings["chat_template"] = (folder / TEMPLATE).read_text("utf-8")
        keys = ("eos_token", "eos_token_id", "bos_token", "chat_template")
        settings = {key: settings[key] for key in keys if settings.get(key) is not None}
        if (folder / CODEC).exists():
            return cls((folder / CODEC).read_text("utf-8"), settings)
        from transformers import AutoTokenizer

        try:
            codec = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str()
        except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RequestError(f"model: {folder} has no {CODEC}, and transformers cannot make one: {reason}") from None
        return cls(codec, settings)

    def save(self, folder: Path) -> tuple[str, ...]:
        """See `Tokenizer.save`; transformers reads these files too."""
        return _write(folder, self._json, self._settings)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._codec.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """See `Tokenizer.encode_batch`; what the vocabulary has no token for, its unknown token stands for."""
        return [encoding.ids for encoding in self._codec.encode_batch_fast(texts, add_special_tokens=False)]

    def marker(self, text: str) -> list[int]:
        """See `Tokenizer.marker`; special tokens in it are ids of their own."""
        if text == "\n":
            if self.newline_id is None:
                raise RequestError(
                    "corpus.delimiters: this model's vocabulary has no newline to stand between a prompt and its "
                    "completion; set it to text"
                )
            return [self.newline_id]
        codec = Codec.from_str(self._json)
        codec.no_padding()
        codec.no_truncation()
        return codec.encode(text, add_special_tokens=False).ids

    def chat(self) -> tuple[str, str, str]:
        """See `Tokenizer.chat`; the end of text behind an answer is left to `TokenLayout`."""
        template = self._settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {named["name"]: named["template"] for named in template}.get("default")
        if not template:
            return super().chat()
        from jinja2 import TemplateError
        from transformers import PreTrainedTokenizerFast

        names = {name: token for name, token in self._settings.items() if name in ("eos_token", "bos_token")}
        names = {name: token["content"] if isinstance(token, dict) else token for name, token in names.items()}
        fast = PreTrainedTokenizerFast(tokenizer_object=Codec.from_str(self._json), chat_template=template, **names)
        asked, said = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
        try:
            opening = fast.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
            whole = fast.apply_chat_template([asked, said], tokenize=False)
        except (TemplateError, ValueError) as error:
            raise RequestError(f"corpus.template: the model's chat template takes no question: {error}") from None
        start, _, separator = opening.partition(QUESTION)
        stop = whole.rpartition(ANSWER)[2].partition(names.get("eos_token") or "\n")[0]
        if not separator:
            raise RequestError("corpus.template: the model's chat template has nothing between question and answer")
        return start, separator, stop.strip()
