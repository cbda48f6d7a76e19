"""The web page of a run's model, in Chromium and over HTTP: real models, tiny ones."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
import requests

gradio = pytest.importorskip("gradio", reason="the page needs Gradio")
import uvicorn  # noqa: E402

import browser  # noqa: E402
from conftest import HOSTILE, make_project, shared, write_archive  # noqa: E402
from tiny import quick  # noqa: E402
from titlesmith import train as engines  # noqa: E402
from titlesmith.app import listen  # noqa: E402
from titlesmith.app import service as service_module  # noqa: E402
from titlesmith.app.page import build_page, mount, render  # noqa: E402
from titlesmith.app.service import MAX_CHARACTERS, Service  # noqa: E402
from titlesmith.errors import RequestError  # noqa: E402
from titlesmith.generate.source import open_source  # noqa: E402
from titlesmith.runs import Run  # noqa: E402
from titlesmith.settings import declared  # noqa: E402
from titlesmith.train import kernels  # noqa: E402

TINY = {"n_ctx": 256, "n_embd": 32, "n_head": 2, "n_layer": 1}
ABSTRACT = "We study speech in rooms. It gets better with noise."


@contextmanager
def serving(service: Service):
    """The address of a page, in this process."""
    with listen("127.0.0.1", 0) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app = mount(build_page(service))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield address
        server.should_exit = True
        thread.join()


def build(folder):
    make_project(folder)
    rows = [{"title": f"{HOSTILE} number {i} of music and speech"} for i in range(120)]
    path = write_archive(folder / "papers.tsv", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        patch.setattr(kernels, "compiled", lambda function: function)  # XLA compiles for seconds a model
        patch.setattr(engines, "SCRATCH", {"scratch": TINY})
        quick("titles", "scratch", source={"source": "archive", "path": str(path)})
        quick("abstracts", "scratch", "abstract-to-title", source={"source": "sample", "num_papers": 120})
        for name in ("titles", "abstracts"):
            Run(name).update_stage("generate", settings={"max_tokens": 24, "temperature": 0.5, "best_of": 3})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a run that continues titles, all hostile, and one that writes titles for made-up abstracts."""
    folder = shared(tmp_path_factory, "app", build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        yield folder


@pytest.fixture(scope="module")
def services(project):
    return {name: Service(open_source(name)) for name in ("titles", "abstracts")}


@pytest.fixture(scope="module")
def addresses(services):
    with serving(services["titles"]) as titles, serving(services["abstracts"]) as abstracts:
        yield {"titles": titles, "abstracts": abstracts}


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture
def tab(chromium):
    """A tab that records the requested addresses, and whether a hostile text ran as a script."""
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    tab.requested, tab.alerts = [], []
    tab.on("request", lambda request: tab.requested.append(request.url))
    tab.on("dialog", lambda dialog: (tab.alerts.append(dialog.message), dialog.dismiss()))
    yield tab
    assert not tab.alerts, "a text ran as a script"
    context.close()


def ask(address: str, name: str, **body) -> tuple[str, dict]:
    """The answer of the HTTP API, requested as its description says: the event and its data."""
    call = f"{address}/gradio_api/call"
    number = requests.post(f"{call}/v2/{name}", json=body, timeout=60).json()["event_id"]
    answer = requests.get(f"{call}/{name}/{number}", timeout=60)
    answer.encoding = "utf-8"
    event, data = re.findall(r"event: (\w+)\ndata: (.*)", answer.text)[-1]
    data = json.loads(data)
    return event, data[0] if isinstance(data, list) else data


def test_a_typed_abstract_gets_titles_and_nothing_leaves_this_machine(addresses, tab):
    tab.goto(addresses["abstracts"])
    assert "made up" in tab.get_by_role("note").inner_text()
    tab.get_by_role("tab", name="A title for my abstract").first.wait_for()
    assert [t.inner_text() for t in tab.get_by_role("tab").all() if t.is_visible()] == ["A title for my abstract"]
    tab.get_by_label("Your abstract").fill(ABSTRACT)
    tab.get_by_label("How the title begins").fill("Deep")
    tab.get_by_role("button", name="Write titles").click()
    tab.locator(".results [role=status]:not([aria-busy]) li").first.wait_for()
    texts = tab.locator(".results .written p").all_inner_texts()
    assert len(texts) == 10 and all(text.startswith("Deep") for text in texts)
    assert tab.locator(".results .near", has_text="Nearest training text").count() == 10
    assert len(re.search(r"\d+", tab.locator(".results .seed").inner_text())[0]) > 2, "an empty seed is random"
    tab.locator(".results button").nth(1).click()
    tab.get_by_role("button", name="Copy", exact=False).first.wait_for()
    assert " ".join(tab.evaluate("navigator.clipboard.readText()").split()) == " ".join(texts[1].split())
    away = [url for url in tab.requested if not url.startswith((addresses["abstracts"], "data:", "blob:"))]
    assert tab.requested and not away


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "abstract is empty"),
        (" \n\t ", "abstract is empty"),
        ("x" * 100_000, "100,000 characters"),
        ("speech and noise " * 400, "exceed the model's context"),
    ],
    ids=["empty", "space", "100,000 characters", "beyond the context"],
)
def test_an_invalid_text_is_an_error_on_the_page(addresses, tab, text, message):
    tab.goto(addresses["abstracts"])
    tab.get_by_label("Your abstract").fill(text)
    tab.get_by_role("button", name="Write titles").click()
    tab.get_by_text(message).first.wait_for(timeout=10_000)
    assert tab.locator(".results li").count() == 0


@pytest.mark.parametrize("text", ["<script>alert(1)</script><img src=x onerror=alert(2)> $x^2$ &amp;", "🎵🎶"])
def test_html_and_emoji_are_shown_literally(addresses, tab, text):
    tab.goto(addresses["titles"])  # its training titles are hostile too
    tab.get_by_label("How the titles begin").fill(text)
    tab.get_by_role("button", name="Write titles").click()
    tab.locator(".results li").first.wait_for()
    assert all(shown.startswith(text) for shown in tab.locator(".results .written p").all_text_contents())
    assert "<script>alert(1)</script>" in tab.locator(".results .near").first.text_content()
    assert tab.locator(".results script, .results img").count() == 0


def test_an_example_fills_the_field(addresses, services, tab):
    tab.goto(addresses["abstracts"])
    (given,), title = services["abstracts"].examples[0]
    tab.get_by_role("button", name=title[:40]).click()
    tab.wait_for_function("text => document.querySelector('textarea').value === text", arg=given)


def test_a_tab_shows_nothing_of_another(addresses, chromium):
    with chromium.new_context() as one, chromium.new_context() as other:
        first, second = one.new_page(), other.new_page()
        second.goto(addresses["titles"])
        first.goto(addresses["titles"])
        first.get_by_label("How the titles begin").fill("My secret")
        first.get_by_role("button", name="Write titles").click()
        first.locator(".results li").first.wait_for()
        assert "secret" not in second.content()
        second.reload()
        second.get_by_role("button", name="Write titles").wait_for()
        assert "secret" not in second.content()
    assert "secret" not in requests.get(f"{addresses['titles']}/config", timeout=9).text


def test_a_waiting_request_shows_its_position_in_the_queue(addresses, services, tab, monkeypatch):
    service, may_go = services["titles"], threading.Event()
    write = service.write
    monkeypatch.setattr(service, "write", lambda *args, **named: (may_go.wait(60), write(*args, **named))[1])
    with ThreadPoolExecutor(3) as pool:
        requests_ = [pool.submit(ask, addresses["titles"], "titles_from_a_beginning", count=1) for _ in range(3)]
        time.sleep(1)
        tab.goto(addresses["titles"])
        tab.get_by_role("button", name="Write titles").click()
        try:
            tab.get_by_text(re.compile(r"queue: \d/\d")).wait_for(timeout=15_000)
        finally:
            may_go.set()
        tab.locator(".results li").first.wait_for()
        assert all(request.result()[0] == "complete" for request in requests_)


def test_abandoned_requests_free_their_places(services, monkeypatch):
    monkeypatch.setattr("titlesmith.app.guard.LISTEN_WITHIN", 1)
    service, name = services["titles"], "titles_from_a_beginning"
    write, asked = service.write, []

    def slowly(*args, **named):
        asked.append(named)
        time.sleep(0.3)
        return write(*args, **named)

    monkeypatch.setattr(service, "write", slowly)
    with serving(service) as address:
        for _ in range(99):  # their results are never requested
            requests.post(f"{address}/gradio_api/call/v2/{name}", json={"count": 1}, timeout=30)
        time.sleep(1.5)
        event, answer = ask(address, name, count=1)
        assert event == "complete" and answer["texts"]
        assert len(asked) < 60, "most of the 99 others were never computed"


def test_ten_parallel_requests_get_their_own_answers(addresses):
    beginnings = [f"Study {i}" for i in range(10)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(
                lambda text: ask(addresses["titles"], "titles_from_a_beginning", begins_with=text, count=2), beginnings
            )
        )
    for begin, (event, answer) in zip(beginnings, answers, strict=True):
        assert event == "complete" and len(answer["texts"]) == 2
        assert all(row["text"].startswith(begin) for row in answer["texts"])


def test_the_same_seed_generates_the_same_texts(addresses):
    body = {"abstract": ABSTRACT, "count": 3, "temperature": 1.0}
    _, first = ask(addresses["abstracts"], "a_title_for_abstract", **body)
    _, again = ask(addresses["abstracts"], "a_title_for_abstract", seed=first["seed"], **body)
    assert again == first and first["made_up"] is True
    _, other = ask(addresses["abstracts"], "a_title_for_abstract", **body)
    assert other["seed"] != first["seed"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"count": 21}, "1 to 20"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 2.5}, "not of type int"),
        ({"beams": True}, "beams"),
        ({"begins_with": "x" * (MAX_CHARACTERS + 1)}, "20,001"),
        ({"begins_with": "bad \ud800"}, "UTF-8"),
        ({"begins_with": 7}, "not a text"),
    ],
    ids=str,
)
def test_programs_get_the_error_message(addresses, wrong, named):
    event, data = ask(addresses["titles"], "titles_from_a_beginning", **wrong)
    assert event == "error" and named in data["error"]


def test_the_page_describes_its_endpoint_and_the_description_works(addresses, tab):
    tab.goto(addresses["abstracts"])
    tab.get_by_role("button", name="Use via API").click()
    tab.get_by_text("/a_title_for_abstract").first.wait_for()
    tab.get_by_text("begins_with").first.wait_for()
    assert all(url.startswith((addresses["abstracts"], "data:", "blob:")) for url in tab.requested)
    program = (
        "from gradio_client import Client\n"
        f"answer = Client({addresses['abstracts']!r}).predict(abstract={ABSTRACT!r}, count=3, "
        "api_name='/a_title_for_abstract')\nprint(len(answer['texts']))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert printed.stdout.splitlines()[-1] == "3", printed.stderr


def test_texts_are_streamed_and_in_the_end_the_same(services, monkeypatch):
    monkeypatch.setattr(service_module, "UPDATE_SECONDS", 0)
    service = services["abstracts"]
    *parts, last = service.stream({"abstract": ABSTRACT}, "Deep", count=3, seed=1)
    assert last == service.write({"abstract": ABSTRACT}, "Deep", count=3, seed=1)
    sizes = [sum(len(row["text"]) for row in part["texts"]) for part in parts]
    assert all(part["busy"] and len(part["texts"]) == 3 for part in parts) and min(sizes) < max(sizes)
    assert "aria-busy" in render("results", **parts[0]) and "aria-busy" not in render("results", **last)
    with pytest.raises(RequestError, match="abstract is empty"):
        next(service.stream({"abstract": ""}))


def test_stop_keeps_the_texts_so_far_and_frees_the_model(addresses, services, tab, monkeypatch):
    monkeypatch.setattr(service_module, "UPDATE_SECONDS", 0)
    stream, closed = services["titles"].stream, threading.Event()

    def slow(*arguments, **settings):
        with closing(stream(*arguments, **settings)) as answers:
            try:
                for answer in answers:
                    yield answer
                    time.sleep(0.5)
            finally:
                closed.set()

    monkeypatch.setattr(services["titles"], "stream", slow)
    tab.goto(addresses["titles"])
    tab.get_by_label("How the titles begin").fill("Neural")
    tab.get_by_role("button", name="Write titles").click()
    tab.locator(".results [aria-busy] li").first.wait_for()
    tab.get_by_role("button", name="Stop").click()
    assert closed.wait(20)
    assert tab.locator(".results [aria-busy] li").first.inner_text().startswith("Neural")
    monkeypatch.undo()
    assert ask(addresses["titles"], "titles_from_a_beginning", count=1)[0] == "complete"


def test_a_beam_search_returns_at_most_one_text_per_beam(services):
    assert len(services["titles"].write({}, "Neural", beams=2, count=10)["texts"]) == 2


def test_controls_have_the_bounds_of_the_notebook_and_the_defaults_of_the_run(services):
    parameters = declared("generate")
    for service in services.values():
        for name, control in service.controls.items():
            outer, own = parameters[name].constraint, control.constraint
            assert outer.low <= own.low <= control.default <= own.high <= outer.high
    assert services["titles"].controls["max_tokens"].default == 24, "the run's setting"


def test_a_copy_is_marked_and_every_text_is_escaped():
    row = {"text": HOSTILE, "nearest": HOSTILE, "nearest_id": "<b>", "nearest_similarity": 1.0, "finished": False}
    html = render("results", seed=1, texts=[row | {"copy": "copy"}, row | {"copy": ""}])
    assert html.count("A copy") == 1 and html.count("Unfinished") == 2
    assert "<script" not in html and "<b>" not in html and html.count("&lt;script&gt;") == 8


def test_a_copy_is_recognized_in_any_case(services):
    service = services["titles"]
    text = service.corpus.table("train")["completion"][0]
    row = {"text": text.upper(), "prefix": "", "prompt": "", "paper": None, "nearest_similarity": 1.0}
    assert service._row(row) == {"text": text.upper(), "nearest_similarity": 1.0, "copy": "copy"}


def test_a_port_in_use_is_an_error_with_a_remedy():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=rf"port {port} .*in use.* set another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(RequestError, match="--host"):
        listen("192.0.2.1", port)


def test_ctrl_c_ends_the_command(project):
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "titlesmith", "app", "titles", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert any(line.startswith(f"open http://127.0.0.1:{port}") for line in process.stdout)  # libraries talk too
        assert requests.get(f"http://127.0.0.1:{port}", timeout=30).ok
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert process.returncode == 0 and "the page has ended" in rest


def test_base_generates_without_a_run(project):
    service = Service(open_source("base"))
    answer = service.write({}, "Neural", count=2, max_tokens=24, seed=1)
    assert len(answer["texts"]) == 2 and not answer["made_up"]
    assert all(row["text"].startswith("Neural") and row["nearest"] is None for row in answer["texts"])
    assert "Nearest training text" not in render("results", **answer)
    build_page(service)
