"""Tokenizers of published models: any ``tokenizer.json`` of the tokenizers library."""

import json
from functools import cached_property, lru_cache
from pathlib import Path
from threading import local
from types import SimpleNamespace

from tokenizers import Tokenizer as Codec
from tokenizers.processors import TemplateProcessing

from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.tokenizer import END, Tokenizer
from titlesmith.errors import RequestError
from titlesmith.runs import replacing

CODEC, CHAT_TEMPLATE = "tokenizer.json", "chat_template.jinja"
FILES = ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json")
SPECIAL = ("eos_token", "bos_token", "unk_token", "pad_token")
SHARED = 10**7  # bytes of a tokenizer.json that takes too much memory for a copy in each thread
QUESTION, ANSWER = "\ue000", "\ue001"  # inserted into chat templates; private-use characters occur in none


class PretrainedTokenizer(Tokenizer):
    """A tokenizer of any kind: byte-level BPE, SentencePiece, or another.

    Special tokens are found by encoding and decoding, because their names differ and a letter may have such a name.
    No text encodes to them: a text that contains one encodes to the tokens of its characters, except in Unigram
    vocabularies, where special tokens are pieces like any other.

    Parameters
    ----------
    codec
        The content of tokenizer.json.
    settings
        Names of `SPECIAL` tokens, ``eos_token_id`` for a model without ``eos_token``, and ``chat_template``.
    """

    def __init__(self, codec: str, settings: dict):
        self._json, self._settings = codec, settings
        self._threads = local() if len(codec) < SHARED else SimpleNamespace()
        self.vocabulary = self._codec.get_vocab(with_added_tokens=True)
        self._length = max(self.vocabulary.values()) + 1
        self.eos_id = self._find_eos_id()
        # What the tokenizer adds before a text, every document begins with
        with_special, bare = (self._codec.encode("a", add_special_tokens=special).ids for special in (True, False))
        size = next((i for i in range(len(with_special)) if with_special[i : i + len(bare)] == bare), 0)
        self.bos_ids = tuple(with_special[:size])
        # The token that adds a newline to a decoded text; what is around it may change how it is encoded
        candidates = [i for text in ("a\nb", "a\n", "\n") for i in self.encode(text)]
        self.newline_id = next((i for i in candidates if self.decode([*bare, i]) == self.decode(bare) + "\n"), None)

    def __len__(self) -> int:
        return self._length

    def _find_eos_id(self) -> int:
        named = self._special_id("eos_token")
        given = self._settings.get("eos_token_id")
        for i in (named, *(given if isinstance(given, list) else [given])):
            if isinstance(i, int) and 0 <= i < self._length:
                return i
        raise RequestError("model: its tokenizer has no end-of-text token: tokenizer_config.json needs eos_token")

    def _special_id(self, key: str) -> int | None:
        """The id of a special token that the settings name; None if the text of its name is not one token."""
        ids = self._encode_marker(_content(self._settings.get(key)) or "")
        return ids[0] if len(ids) == 1 else None

    @property
    def openings(self) -> list[tuple[int, tuple[int, ...]]]:
        """See `Tokenizer.openings`; other special tokens too if the tokenizer adds none before a text.

        The end of text of a model that was tuned for chats may not be the token between its pretraining documents.
        """
        eos, (unk, pad, bos) = self.eos_id, map(self._special_id, ("unk_token", "pad_token", "bos_token"))
        if self.bos_ids:
            return super().openings
        result = [(eos, ()), *((i, ()) for i in (unk, pad) if i is not None)]
        return list(dict.fromkeys(result + ([(eos, (bos,))] if bos not in (None, eos) else [])))

    @property
    def _codec(self) -> Codec:
        if not hasattr(self._threads, "codec"):
            names = {_content(self._settings.get(key)) or "" for key in SPECIAL}
            codec = self._threads.codec = _parse(self._json)
            codec.add_special_tokens([name for name in sorted(names) if codec.token_to_id(name) is not None])
            codec.encode_special_tokens = True
        return self._threads.codec

    def _encode_marker(self, text: str) -> list[int]:
        codec = self._codec
        codec.encode_special_tokens = False
        ids = codec.encode(text, add_special_tokens=False).ids if text else []
        codec.encode_special_tokens = True
        return ids

    @classmethod
    def load(cls, folder: Path) -> "PretrainedTokenizer":
        """Reads ``tokenizer.json`` and the settings next to it; transformers converts older formats."""
        settings: dict = {}
        for name in FILES:
            if (folder / name).exists():
                settings |= json.loads((folder / name).read_text("utf-8"))
        if (folder / CHAT_TEMPLATE).exists():
            settings["chat_template"] = (folder / CHAT_TEMPLATE).read_text("utf-8")
        keys = (*SPECIAL, "eos_token_id", "chat_template")
        settings = {key: settings[key] for key in keys if settings.get(key) is not None}
        if (folder / CODEC).exists():
            return _load((folder / CODEC).read_text("utf-8"), json.dumps(settings))
        from transformers import AutoTokenizer

        try:
            codec = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str()
        except (OSError, ValueError, ImportError, AttributeError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise RequestError(f"model: {folder} has no {CODEC}, and transformers cannot make one: {reason}") from None
        return cls(codec, settings)

    def with_end(self, eos_id: int) -> "PretrainedTokenizer":
        """The same vocabulary with another end-of-text token."""
        settings = {key: value for key, value in self._settings.items() if key != "eos_token_id"}
        return PretrainedTokenizer(self._json, settings | {"eos_token": self._tokens[eos_id]})

    @cached_property
    def after_newline(self) -> "PretrainedTokenizer":
        """See `Tokenizer.after_newline`: SentencePiece adds a space before a text, and none within it."""
        alone = self.encode("a")
        if self.encode("\na")[-len(alone) :] == alone:
            return self
        codec = json.loads(self._json)
        normalizer, splitter = codec["normalizer"] or {}, codec["pre_tokenizer"] or {}
        for step in splitter.get("pretokenizers", [splitter]):
            if step.get("type") == "Metaspace":
                step.pop("add_prefix_space", None)  # of files before 2024
                step["prepend_scheme"] = "never"
        steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
        kept = [step for step in steps if step["type"] != "Prepend"]
        codec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
        return PretrainedTokenizer(json.dumps(codec), self._settings)

    def save(self, folder: Path) -> tuple[str, ...]:
        """See `Tokenizer.save`; transformers reads these files too."""
        return _write(folder, self._json, self._settings)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._codec.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """See `Tokenizer.encode_batch`; characters without a token become the unknown token."""
        return [encoding.ids for encoding in self._codec.encode_batch_fast(texts, add_special_tokens=False)]

    def marker_ids(self, text: str) -> list[int]:
        """See `Tokenizer.marker_ids`; special tokens in the marker have their own ids."""
        if text == "\n" and self.newline_id is None:
            raise RequestError(
                "corpus.delimiters: this model's vocabulary has no newline to put between a prompt and its completion; "
                "set it to text"
            )
        return [self.newline_id] if text == "\n" else self._encode_marker(text)

    def chat_markers(self) -> tuple[str, str, str]:
        """See `Tokenizer.chat_markers`; without the end of text after an answer, which `TokenLayout` adds."""
        template = self._settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {named["name"]: named["template"] for named in template}.get("default")
        if not template:
            return super().chat_markers()
        from jinja2 import TemplateError
        from transformers import PreTrainedTokenizerFast

        # Render the template with placeholders, and cut at these
        names = {key: _content(self._settings[key]) for key in ("eos_token", "bos_token") if key in self._settings}
        fast = PreTrainedTokenizerFast(tokenizer_object=Codec.from_str(self._json), chat_template=template, **names)
        messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
        try:
            question = fast.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
            conversation = fast.apply_chat_template(messages, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise RequestError(f"corpus.template: the model's chat template accepts no question: {error}") from None
        start, _, separator = question.partition(QUESTION)
        stop = conversation.rpartition(ANSWER)[2].partition(names.get("eos_token") or "\n")[0]
        if not separator:
            raise RequestError("corpus.template: the model's chat template has nothing between question and answer")
        return start, separator, stop.strip()


def as_pretrained(tokenizer: Tokenizer) -> PretrainedTokenizer:
    """The same vocabulary in the format of the transformers library."""
    if isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer
    codec = Codec.from_str(tokenizer._codec.to_str())
    codec.add_special_tokens([END])
    return PretrainedTokenizer(codec.to_str(), {"eos_token": END, "bos_token": END})


def save_for_transformers(layout: TokenLayout, context: int, folder: Path) -> tuple[str, ...]:
    """Writes a tokenizer that adds the ids of a layout itself, and returns the names of its files.

    It adds the same ids as `TokenLayout.prompt_ids`: a text is a prompt, or a prefix where documents have no prompt; a
    pair of texts is a prompt and a prefix, before which SentencePiece adds a space. No text encodes to a special token,
    unless the model has a chat template, which needs that. ``context`` is the maximum length of the model's input in
    tokens.
    """
    tokenizer = as_pretrained(layout.tokenizer)
    codec, tokens = _parse(tokenizer._json), tokenizer._tokens
    added = {"before": [tokenizer.eos_id, *layout.start], "between": layout.separator}
    special = [{"id": name, "ids": ids, "tokens": [tokens[i] for i in ids]} for name, ids in added.items() if ids]
    single = ["before", "$A", *(["between"] if layout.separator else [])]
    codec.post_processor = TemplateProcessing(single=single, pair=[*single, "$B"], special_tokens=special)
    settings = {
        "eos_token": tokens[tokenizer.eos_id],
        "pad_token": tokens[tokenizer.eos_id],
        "padding_side": "left",
        "model_max_length": context,
        "split_special_tokens": "chat_template" not in tokenizer._settings,
    }
    return _write(folder, codec.to_str(), tokenizer._settings | settings)


@lru_cache(maxsize=2)  # a vocabulary of 262,144 tokens is parsed in seconds
def _load(codec: str, settings: str) -> PretrainedTokenizer:
    return PretrainedTokenizer(codec, json.loads(settings))


def _parse(content: str) -> Codec:
    codec = Codec.from_str(content)
    codec.no_padding()
    codec.no_truncation()
    return codec


def _content(token: str | dict | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def _write(folder: Path, codec: str, settings: dict) -> tuple[str, ...]:
    common = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # GPT-2 would add embeddings of token types
    }
    contents = {CODEC: codec, "tokenizer_config.json": json.dumps(common | settings, indent=2)}
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(content, "utf-8")
    return tuple(contents)
