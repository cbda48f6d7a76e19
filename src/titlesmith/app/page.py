"""The page: boxes, settings and results of a `Service`, and how programs ask it, with Gradio."""

import inspect
import json
import re
from html import escape
from textwrap import shorten
from typing import Optional

import gradio as gr
from fastapi import FastAPI

from titlesmith.app.guard import Guard
from titlesmith.app.service import LONGEST, Service
from titlesmith.errors import RequestError, TitlesmithError
from titlesmith.runs import MADE_UP

FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
QUEUE = 100  # requests that may wait
MODEL = "model"  # what all requests wait for, one at a time: the back end is not made for threads
WARNINGS = {
    "copy": "A copy: this text stands in the training texts word for word.",
    "near copy": "Nearly a copy of a training text.",
}
CSS = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
.results ol {list-style: none; margin: 0; padding: 0}
.results li {border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); margin: 0 0 .75rem;
  padding: .75rem; background: var(--block-background-fill)}
.results .written {display: flex; gap: .75rem; justify-content: space-between; align-items: flex-start}
.results .written p {font-size: 1.05rem; margin: 0; overflow-wrap: anywhere}
.results button {border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); padding: .15rem .6rem;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color); flex: none}
.results .near {color: var(--body-text-color-subdued); font-size: .875rem; margin: .4rem 0 0; overflow-wrap: anywhere}
.results .warning, .banner {border-left: 4px solid #b45309; background: #fef3c7; color: #451a03; padding: .3rem .6rem;
  margin: .5rem 0 0; font-size: .9rem}
.results .seed, .empty {color: var(--body-text-color-subdued); font-size: .9rem; margin: 0 0 .6rem}
.gradio-container .facts {border: 0}
.gradio-container .facts :is(th, td) {text-align: left; vertical-align: top; padding: .3rem .6rem; border: 0;
  border-top: 1px solid var(--border-color-primary); overflow-wrap: anywhere}
"""
COPY = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-text]');
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
  } catch {  // there is no clipboard where the page does not come from this machine or by https
    const box = document.createElement('textarea');
    box.value = button.dataset.text;
    document.body.append(box);
    box.select();
    document.execCommand('copy');
    box.remove();
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
});
"""


def page(service: Service, address: str) -> gr.Blocks:
    """The page of a run's model, to be launched.

    Parameters
    ----------
    service
        What answers; one request at a time, the others wait in line.
    address
        Where the page will be, for its examples.
    """
    name = service.run.name
    with gr.Blocks(title=f"titlesmith: {name}", analytics_enabled=False) as blocks:
        gr.HTML(f"<h1>titlesmith: {escape(name)}</h1>{_introduction(service)}")
        with gr.Tabs(), gr.Tab(service.task.capitalize()):
            _writing(service)
        # No tabs, which a narrow page hides in a menu
        with gr.Accordion("Ask it from a program", open=False):
            _program(service, address)
        with gr.Accordion("About the model", open=False):
            gr.HTML(_about(service))
    return blocks.queue(max_size=QUEUE, default_concurrency_limit=1)


def mounted(blocks: gr.Blocks, host: str = "127.0.0.1", names: tuple[str, ...] = ()) -> Guard:
    """The page as an application that a server runs, behind a `Guard`: nothing is recorded, reported or shared."""
    application = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="",
        theme=theme(),
        css=CSS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        max_file_size=0,
        blocked_paths=["/"],
    )
    blocks.has_launched = True  # else Gradio skips its check of files
    return Guard(application, blocks, host, names)


def theme() -> gr.themes.Base:
    """Fonts of the reader's machine, so that none is fetched; grey text that stands out from its ground."""
    subdued = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    subdued |= {f"{name}_dark": "*neutral_300" for name in subdued}
    return gr.themes.Default(primary_hue="blue", font=FONT, font_mono=MONO).set(**subdued)


def _introduction(service: Service) -> str:
    count = service.corpus.info["splits"]["train"]["documents"]
    made_up = f'<p class="banner" role="note">{escape(MADE_UP)}</p>' if service.run.made_up else ""
    return (
        f"<p>A language model that has read {count:,} {escape(service.writes)}s ({escape(service.run.source_label)}) "
        "writes new ones. It knows their style and no facts. Next to each is what it has read that is most like it.</p>"
        f"{made_up}"
    )


def _writing(service: Service) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            boxes = [
                gr.Textbox(
                    label=f"Your {name}",
                    lines=8 if name == "abstract" else 2,
                    max_lines=20,
                    placeholder="Paste it here",
                )
                for name in service.fields
            ]
            begin = gr.Textbox(
                label=f"How the {service.writes} begins" if service.fields else f"How the {service.writes}s begin",
                info="May be left empty. The last word may be unfinished.",
            )
            button = gr.Button(f"Write {service.writes}s", variant="primary")
            with gr.Accordion("Settings", open=False):
                settings = [_control(service, name) for name in service.controls]
            if service.examples:
                gr.Examples(
                    [given for given, _ in service.examples],
                    boxes or [begin],
                    label="Papers that the model has not read" if boxes else "Beginnings to try",
                    example_labels=[label for _, label in service.examples],
                    cache_examples=False,
                    api_visibility="private",
                )
        with gr.Column(min_width=300):
            results = gr.HTML(
                f'<p class="empty">The {escape(service.writes)}s appear here.</p>',
                label="Results",
                elem_classes="results",
                js_on_load=COPY,
                min_height=120,
            )
    texts = [*boxes, begin]
    length = list(service.controls).index("max_tokens")

    def check(*values: object) -> list[dict]:
        """Marks the box that is refused, before the request joins the line."""
        given, chosen = values[: len(texts)], values[len(texts) :]
        try:
            service.check(dict(zip(service.fields, given, strict=False)), given[-1], chosen[length])
        except RequestError as error:
            return [gr.validate(False, str(error)), *[gr.validate(True, "")] * (len(values) - 1)]
        return [gr.validate(True, "")] * len(values)

    def write(*values: object) -> str:
        given, chosen = values[: len(texts)], dict(zip(service.controls, values[len(texts) :], strict=True))
        seed = (chosen["seed"] or "").strip()
        chosen["seed"] = int(seed) if seed.isdecimal() else seed or None
        try:
            return results_html(service.write(dict(zip(service.fields, given, strict=False)), given[-1], **chosen))
        except TitlesmithError as error:
            raise _refusal(escape(str(error))) from None

    gr.on(
        [button.click, *(box.submit for box in texts)],
        write,
        [*texts, *settings],
        results,
        validator=check,
        api_visibility="private",
        concurrency_id=MODEL,
        concurrency_limit=1,
        scroll_to_output=True,
    )


def _control(service: Service, name: str) -> gr.components.Component:
    control = service.controls[name]
    facts = {
        "label": control.label,
        "info": control.help if name != "count" else None,
        "minimum": control.low,
        "maximum": control.high,
    }
    if name == "seed":
        info = "The same seed writes the same again. Empty: another each time."
        return gr.Textbox("", label=control.label, info=info, placeholder="another each time")
    if name == "top_k":
        return gr.Number(control.default, precision=0, **facts)
    return gr.Slider(value=control.default, step=1 if control.parameter.type is int else 0.05, **facts)


def _refusal(why: str) -> gr.Error:
    return gr.Error(why, duration=None, print_exception=False)  # it is no fault of the page's


def results_html(answer: dict) -> str:
    """The texts of an answer of `Service.write`, each with its nearest training text; everything escaped."""
    items = "".join(_item(row) for row in answer["texts"])
    again = f'<p class="seed">Written with seed {answer["seed"]}, which writes them again.</p>'
    return f'<div role="status">{again}<ol>{items}</ol></div>'


def _item(row: dict) -> str:
    text = escape(row["text"])
    warnings = [WARNINGS[row["copy"]]] if row["copy"] else []
    if not row["finished"]:
        warnings.append("Unfinished: the model did not come to an end within the maximum length.")
    return (
        f'<li><div class="written"><p>{text}</p>'
        f'<button type="button" data-text="{text}" aria-label="Copy: {text}">Copy</button></div>'
        + "".join(f'<p class="warning">{warning}</p>' for warning in warnings)
        + f'<p class="near">Nearest training text, {row["nearest_similarity"]:.0%} alike: {escape(row["nearest"])} '
        f"({escape(row['nearest_id'])})</p></li>"
    )


def _program(service: Service, address: str) -> None:
    """Declares the endpoint and shows how to ask it."""
    name = re.sub(r"\W+", "_", service.task.replace("my ", "")).lower()
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    fields = {re.sub(r"\W", "_", field): field for field in service.fields}
    parameters = dict.fromkeys(fields, (str, empty)) | {"begins_with": (str, "")}
    for control in service.controls.values():
        parameters[control.name] = (control.parameter.type, control.default)
    parameters["seed"] = (Optional[int], None)

    def endpoint(*args: object, **named: object) -> dict:
        given = endpoint.__signature__.bind(*args, **named).arguments
        texts = {field: given.pop(key) for key, field in fields.items()}
        try:
            return service.write(texts, given.pop("begins_with", ""), **given)
        except TitlesmithError as error:
            raise _refusal(str(error)) from None

    endpoint.__signature__ = inspect.Signature(
        [inspect.Parameter(key, kind, default=default, annotation=a) for key, (a, default) in parameters.items()],
        return_annotation=dict,
    )
    endpoint.__annotations__ = {key: annotation for key, (annotation, _) in parameters.items()} | {"return": dict}
    endpoint.__name__ = name
    gr.api(endpoint, api_name=name, concurrency_id=MODEL, concurrency_limit=1)
    shown = service.examples[0][0] if service.examples else ["..."] * max(1, len(fields))
    body = dict(zip(list(fields) or ["begins_with"], shown, strict=True)) | {"count": 3}
    body = {key: shorten(value, 200) if isinstance(value, str) else value for key, value in body.items()}
    gr.HTML(
        "<p>The same model answers programs. The first request joins the line and gives a number, the second waits for "
        "the answer: <code>event: complete</code> and a list with one JSON object, or <code>event: error</code> and "
        "what was wrong.</p>"
    )
    gr.Code(curl(address, name, body), language="shell", label="curl", interactive=False, wrap_lines=True)
    rows = "".join(
        f"<tr><th scope='row'><code>{key}</code></th><td>{_says(service, key, default)}</td></tr>"
        for key, (_, default) in parameters.items()
    )
    gr.HTML(f'<table class="facts"><tbody>{rows}</tbody></table>')
    gr.Code(python(address, name, body), language="python", label="Python", interactive=False, wrap_lines=True)


def _says(service: Service, key: str, default: object) -> str:
    if key == "begins_with":
        return "how the text begins; may be left out"
    if key == "seed":
        return "the same seed writes the same again; another each time where it is left out"
    if key not in service.controls:
        return f"text, at most {LONGEST:,} characters"
    control = service.controls[key]
    if key == "count":
        return f"number of texts, {control.low:g} to {control.high:g}; {default:g} where it is left out"
    return f"{escape(control.help)}; from {control.low:g} to {control.high:g}, {default:g} where it is left out"


def curl(address: str, name: str, body: dict) -> str:
    """Commands for a shell that ask the endpoint ``name`` and print its answer."""
    quoted = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    call = f"{address}/gradio_api/call"
    return (
        f"id=$(curl -s {call}/v2/{name} -H 'Content-Type: application/json' \\\n  -d '{quoted}' | cut -d '\"' -f 4)\n"
        f"curl -sN {call}/{name}/$id\n"
    )


def python(address: str, name: str, body: dict) -> str:
    """The same in Python."""
    arguments = "".join(f"    {key}={value!r},\n" for key, value in body.items())
    return (
        "from gradio_client import Client  # pip install gradio_client\n\n"
        f'answer = Client("{address}").predict(\n{arguments}    api_name="/{name}",\n)\n'
        'for row in answer["texts"]:\n    print(row["text"], row["copy"])\n'
    )


def _about(service: Service) -> str:
    run, info, training = service.run, service.corpus.info, service.run.record("finetune")
    perplexity = run.metrics["perplexity"]["test"] if run.is_current("evaluate") else None
    facts = {
        "Run": run.name,
        "Papers": run.source_label,
        "Texts that it learned from": f"{info['splits']['train']['documents']:,}",
        "Form of a text": info["template"],
        "Training stopped": training.get("stop_reason", ""),
        "Perplexity of held-out texts": f"{perplexity:.1f}" if perplexity else "not measured",
        "It reads and writes at most": f"{service.backend.context:,} tokens at once",
    }
    rows = "".join(f"<tr><th scope='row'>{key}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    return (
        f'<table class="facts"><tbody>{rows}</tbody></table><p>Texts are drawn at random, token by token. They may '
        "state what is not so. What is typed here is neither kept nor shown to anybody else.</p>"
    )
