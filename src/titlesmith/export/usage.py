"""Usage: how to let an exported model write, without titlesmith."""

from titlesmith.corpus import Corpus
from titlesmith.corpus.template import pieces
from titlesmith.corpus.tokenizer import END

EXAMPLES = {
    "abstract": "We study how people hear speech in noise. Listeners understand more where the noise moves.",
    "title": "How people hear speech in noise",
    "year": "2024",
}


def usage(corpus: Corpus, settings: dict) -> str:
    """How to let an exported model write, in Markdown.

    Parameters
    ----------
    corpus
        What it was trained on.
    settings
        The parameters of notebook 04 that generation_config.json has.
    """
    opened = "an end-of-text token" + " and what stands before every document" * bool(corpus.layout.start)
    said = [
        f"```python\n{snippet(corpus, settings)}```",
        "Settings of sampling, and where a text ends, stand in `generation_config.json`.",
    ]
    if corpus.has_prompt:
        said.append(
            f"The tokenizer itself puts {opened} before a prompt and, behind it, what stands between prompt and text "
            "in the training documents, so give the prompt alone. `tokenizer(prompt, beginning)` makes the ids from "
            "which `model.generate` goes on from a beginning of the text."
        )
    else:
        said.append(
            f'The tokenizer itself puts {opened} before a text. Given nothing, `""`, the model begins by itself.'
        )
    if corpus.template.chat:
        said.append(
            "The prompt is a question in the model's own chat template, with whose markers it was trained. Messages, "
            '`[{"role": "user", "content": ...}]`, go through that template too. A text that spells one of its markers '
            "is read as that marker."
        )
    if corpus.lowercase:
        said.append("All training texts are in lower case: give fields and beginnings in lower case (`.lower()`).")
    if corpus.layout.markers[2] == END:
        said.append(
            f"The model was trained on texts whose delimiters are spelled as text: it writes `{END}` behind a text, "
            "where the program above cuts it."
        )
    return "\n\n".join(said)


def snippet(corpus: Corpus, settings: dict) -> str:
    """A program that lets the exported model write, run in its folder."""
    count = f", num_return_sequences={min(settings['count'], 5)}" if settings["beams"] == 1 else ""
    stop = f'.partition("{END}")[0]' if corpus.layout.markers[2] == END else ""
    lines = [
        "from transformers import pipeline, set_seed",
        "",
        'write = pipeline("text-generation", ".")  # this folder: its path, or its name on the hub, from elsewhere',
        "set_seed(1)",
    ]
    if corpus.has_prompt:
        fields = {name: _example(name, corpus) for name in corpus.template.prompt_fields}
        filled = (repr(text) if name is None else f"fields[{name!r}]" for text, name in pieces(corpus.template.prompt))
        lines += [f"fields = {fields!r}", f"prompt = {' + '.join(filled)}"]
        given, more, said = "prompt", ", return_full_text=False", 'row["generated_text"]'
    else:
        given = repr(next((corpus.clean(prefix) for prefix in settings["prefixes"] if corpus.clean(prefix)), ""))
        more, said = "", 'row["generated_text"]'
        if not corpus.tokenizer.is_byte_level:
            more, said = ", return_tensors=True", (
                'write.tokenizer.decode(row["generated_token_ids"], skip_special_tokens=True)'
            )  # fmt: skip
    return "\n".join([*lines, f"for row in write({given}{more}{count}):", f"    print({said}{stop})"]) + "\n"


def _example(name: str, corpus: Corpus) -> str:
    frequent = next((row["category"] for row in corpus.info.get("categories", []) if row["category"]), "cs.CL")
    return corpus.clean({"category": frequent, "primary_category": frequent}.get(name, EXAMPLES.get(name, f"A {name}")))
