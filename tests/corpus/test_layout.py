import pytest

from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.tokenizer import Tokenizer

LEARNED = Tokenizer.learn(["Neural speech recognition in noise"] * 9, 320)


@pytest.mark.parametrize(
    ("delimiters", "has_prompt", "text"),
    [
        ("ids", False, "Music"),
        ("ids", True, "noise\nMusic"),
        ("text", False, "<|startoftext|>Music<|endoftext|>"),
        ("text", True, "<|startoftext|>noise<|sep|>Music<|endoftext|>"),
    ],
)
def test_prompt_ids_begin_a_document_and_decode_returns_its_completion(delimiters, has_prompt, text):
    layout = TokenLayout(LEARNED, delimiters, has_prompt)
    assert layout.join("noise" if has_prompt else "", "Music") == text
    end, *opening = layout.prompt_ids("noise" if has_prompt else "")
    document = [*opening, *LEARNED.encode("Music"), *layout.stop]
    assert end == LEARNED.eos_id not in document and LEARNED.decode(document) == text
    assert layout.decode(document[len(opening) :]) == "Music"
