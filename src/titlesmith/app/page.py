"""The page: text fields, settings and results of a `Service`, and its endpoint for programs, with Gradio."""

import inspect
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html import escape
from pathlib import Path
from typing import Optional

import gradio as gr
from fastapi import FastAPI
from jinja2 import Environment, PackageLoader
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp

from titlesmith.app.guard import MAX_BODY, Guard
from titlesmith.app.service import Service
from titlesmith.corpus.template import DEFAULTS
from titlesmith.errors import TitlesmithError
from titlesmith.runs import MADE_UP

FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
STATIC = Path(__file__).parent / "static"
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}  # the back end is not thread-safe
TEMPLATES = Environment(loader=PackageLoader("titlesmith.app"), autoescape=True, trim_blocks=True)


def build_page(service: Service) -> gr.Blocks:
    """The page of a model; one request is answered at a time, the others wait."""
    with gr.Blocks(title=f"titlesmith: {service.name}", analytics_enabled=False) as blocks:
        gr.HTML(render("introduction", service=service, made_up=MADE_UP))
        with gr.Tabs(), gr.Tab(service.task.capitalize()):
            _add_form(service)
        with gr.Accordion("About the model", open=False):
            gr.HTML(render("about", service=service))
        _add_endpoint(service)
    return blocks.queue(max_size=100)  # requests that may wait


def mount(blocks: gr.Blocks, host: str = "127.0.0.1", names: tuple[str, ...] = ()) -> ASGIApp:
    """The page as an ASGI application in a `Guard`; nothing is recorded, reported or shared."""
    # Fonts of the reader's machine, so that none is downloaded; grey text with enough contrast
    subdued = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    subdued |= {f"{name}_dark": "*neutral_300" for name in subdued}
    application = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="",
        theme=gr.themes.Default(primary_hue="blue", font=FONT, font_mono=MONO).set(**subdued),
        css=(STATIC / "page.css").read_text("utf-8"),
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        blocked_paths=["/"],
    )
    blocks.has_launched = True  # otherwise Gradio does not check files
    return RequestBodyLimitMiddleware(Guard(application, blocks, host, names), MAX_BODY)


def render(template: str, **values: object) -> str:
    """HTML from a template; values are escaped."""
    return TEMPLATES.get_template(f"{template}.html.j2").render(**values)


def _add_form(service: Service) -> None:
    """Adds text fields, settings, examples and results."""
    # Left: the input. Right: the results
    with gr.Row():
        with gr.Column(min_width=300):
            label_input = "Input: your " if DEFAULTS.keys() & set(service.fields) else "Your "
            boxes = [
                gr.Textbox(
                    DEFAULTS.get(name, ""),
                    label=name.capitalize() if name in DEFAULTS else f"{label_input}{name}",
                    lines=8 if name == "abstract" else 2,
                    max_lines=20,
                )
                for name in service.fields
            ]
            label = f"How the {service.writes} begins" if service.fields else f"How the {service.writes}s begin"
            begin = gr.Textbox(label=label, info="Optional. The last word may be incomplete.")
            with gr.Row():
                button = gr.Button(f"Write {service.writes}s", variant="primary")
                stop = gr.Button("Stop", variant="stop")
            with gr.Accordion("Settings", open=False):
                settings = [_build_control(service, name) for name in service.controls]
            if service.examples:
                gr.Examples(
                    [values for values, _ in service.examples],
                    boxes or [begin],
                    label="Papers that the model was not trained on" if boxes else "Beginnings to try",
                    example_labels=[label for _, label in service.examples],
                    api_visibility="private",
                )
        with gr.Column(min_width=300):
            results = gr.HTML(
                f'<p class="empty">The {service.writes}s appear here.</p>',
                elem_classes="results",
                js_on_load=(STATIC / "copy.js").read_text("utf-8"),
            )
    # The button, and Enter in a text field, generate texts
    texts = [*boxes, begin]

    def write(*values: object) -> Iterator[str]:
        *fields, beginning = values[: len(texts)]
        chosen = dict(zip(service.controls, values[len(texts) :], strict=True))
        arguments = dict(zip(service.fields, fields, strict=True)), beginning
        with _as_page_error(is_page=True), closing(service.stream(*arguments, **chosen)) as answers:
            for answer in answers:
                yield render("results", **answer)

    writing = gr.on(
        [button.click, *(box.submit for box in texts)],
        write,
        [*texts, *settings],
        results,
        api_visibility="private",
        scroll_to_output=True,
        **ONE_AT_A_TIME,
    )
    stop.click(None, cancels=[writing], api_visibility="private")  # what is generated so far stays


@contextmanager
def _as_page_error(is_page: bool = False) -> Iterator[None]:
    """Raises errors of the service as Gradio's, which the page shows as HTML."""
    try:
        yield
    except TitlesmithError as error:
        message = escape(str(error)) if is_page else str(error)
        raise gr.Error(message, duration=None, print_exception=False) from None


def _build_control(service: Service, name: str) -> gr.components.Component:
    """The component of a setting."""
    parameter, label = service.controls[name], name.replace("_", " ").capitalize()
    if name == "seed":
        return gr.Number(label=label, precision=0, info="The same seed gives the same texts. Empty: a random seed.")
    shown = {"minimum": parameter.constraint.low, "maximum": parameter.constraint.high, "label": label}
    shown |= {"value": parameter.default, "info": parameter.description}
    if name == "top_k":
        return gr.Number(precision=0, **shown)
    return gr.Slider(step=1 if parameter.type is int else 0.05, **shown)


def _add_endpoint(service: Service) -> None:
    """Adds the endpoint that Gradio's page "Use via API" describes, with the fields and settings as parameters."""
    fields = {re.sub(r"\W", "_", field): field for field in service.fields}
    types = dict.fromkeys([*fields, "begins_with"], str)
    defaults = {key: DEFAULTS.get(field, "") for key, field in fields.items()} | {"begins_with": ""}
    for name, control in service.controls.items():
        types[name], defaults[name] = control.type, control.default
    types["seed"], defaults["seed"] = Optional[int], None

    def endpoint(*values: object) -> dict:
        chosen = dict(zip(defaults, values, strict=True))
        texts = {field: chosen.pop(key) for key, field in fields.items()}
        with _as_page_error():
            return service.write(texts, chosen.pop("begins_with"), **chosen)

    # Gradio reads the parameters from the function
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(key, kind, default=value, annotation=types[key]) for key, value in defaults.items()]
    endpoint.__signature__ = inspect.Signature(parameters, return_annotation=dict)
    endpoint.__annotations__ = types | {"return": dict}
    endpoint.__name__ = re.sub(r"\W+", "_", service.task.replace("my ", "")).lower()
    endpoint.__doc__ = f"{service.task.capitalize()}: `texts`, and the `seed` that gives them again."
    gr.api(endpoint, api_name=endpoint.__name__, **ONE_AT_A_TIME)
