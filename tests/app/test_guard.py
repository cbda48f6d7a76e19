"""The guard: real requests to the served page."""

import gzip
import json
import socket
from contextlib import suppress

import pytest
import requests

pytest.importorskip("gradio", reason="the page needs Gradio")

from app.test_app import project as project
from app.test_app import services as services
from app.test_app import serving
from titlesmith.app.guard import MAX_BODY, Guard
from titlesmith.app.page import build_page

FILE = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
NAME = "titles_from_a_beginning"
ROUTES = """
gradio_api/file=/etc/hostname file=/etc/hostname gradio_api/file/etc/hostname gradio_api/upload docs mcp
gradio_api/upload_progress?upload_id=1 gradio_api/proxy=http://127.0.0.1:1/ gradio_api/stream/a/b/c/playlist.m3u8
gradio_api/custom_component/a/b/c/d gradio_api/dev/reload gradio_api/vibe-code monitoring monitoring/x login logout
gradio_api/component_server gradio_api/openapi.json gradio_api/user gradio_api/token gradio_api/runs
gradio_api/deep_link static/../../routes.py assets/%2e%2e/%2e%2e/routes.py
"""


@pytest.fixture(scope="module")
def address(services):
    with serving(services["titles"]) as address:
        yield address


def raw(address: str, request: bytes) -> bytes:
    """The status line and more of an answer to bytes that no client library would send."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        return connection.recv(4096)


@pytest.mark.parametrize("value", [FILE, [FILE], {"a": FILE}, ["x"]], ids=["file", "list", "nested", "text in a list"])
def test_a_text_field_accepts_only_text(address, value):
    joined = {"data": [value, *[None] * 8], "fn_index": 2, "session_hash": "abc", "event_data": None}
    for path, body in [
        ("queue/join", joined),
        ("run/predict", joined),
        (f"call/{NAME}", {"data": [value]}),
        (f"call/v2/{NAME}", {"begins_with": value}),
    ]:
        answer = requests.post(f"{address}/gradio_api/{path}", json=body, timeout=30)
        assert answer.status_code == 422 and "/etc" not in answer.text, path


@pytest.mark.parametrize("path", ROUTES.split())
def test_routes_that_the_page_does_not_need_do_not_exist(address, path):
    assert requests.get(f"{address}/{path}", timeout=30).status_code == 404
    assert requests.post(f"{address}/{path}", json={}, timeout=30).status_code in (404, 422)


def test_nothing_can_be_uploaded(address):
    files = {"files": ("a.txt", b"text")}
    assert requests.post(f"{address}/gradio_api/upload", files=files, timeout=30).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "[::1", "0.0.0.0", ""])
def test_a_foreign_host_is_refused(address, host):
    answer = requests.get(address, headers={"Host": host}, timeout=30)
    assert answer.status_code in (400, 421) and "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_a_foreign_origin_gets_no_answer(address, origin):
    for method in ("GET", "POST", "OPTIONS"):
        answer = requests.request(method, f"{address}/config", headers={"Origin": origin}, timeout=30)
        assert answer.status_code == 403 and "Access-Control-Allow-Origin" not in answer.headers


def test_the_pages_own_origin_and_the_names_of_this_machine_are_answered(address):
    port = address.rpartition(":")[2]
    assert requests.get(f"{address}/config", headers={"Origin": address}, timeout=30).ok
    assert requests.get(f"{address}/config", headers={"Host": f"localhost:{port}"}, timeout=30).ok


def test_a_server_on_every_address_is_reached_by_ip_address_and_not_by_a_foreign_name(services):
    page = build_page(services["titles"])
    guard = Guard(None, page, "0.0.0.0", ("machine",))
    assert all(map(guard._is_ours, ["192.168.1.2:7860", "[fe80::1]:7860", "machine", "localhost"]))
    assert not any(map(guard._is_ours, ["evil.example", "machine.evil.example", "1.2.3.4.evil"]))
    assert not Guard(None, page, "127.0.0.1")._is_ours("192.168.1.2")


@pytest.mark.parametrize("path", ["gradio_api/queue/join", f"gradio_api/call/v2/{NAME}"])
def test_a_body_over_the_limit_is_refused(address, path):
    big = json.dumps({"begins_with": "x" * MAX_BODY})
    assert requests.post(f"{address}/{path}", data=big, timeout=30).status_code == 413
    chunks = (b"x" * 100_000 for _ in range(100))  # of no stated length
    with suppress(requests.ConnectionError):  # where the server hangs up while the client is still sending
        assert requests.post(f"{address}/{path}", data=chunks, timeout=30).status_code == 413


def test_wrong_lengths_and_compressed_bodies_are_refused(address):
    host = address.removeprefix("http://")
    head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: {host}\r\n".encode()
    for length in (b"-5", b"99999999999999999999999"):
        assert b" 4" in raw(address, head + b"Content-Length: " + length + b"\r\n\r\n").splitlines()[0]
    packed = {"data": gzip.compress(b"{}"), "headers": {"Content-Encoding": "gzip"}, "timeout": 30}
    assert requests.post(f"{address}/gradio_api/queue/join", **packed).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("queue/join", b"", 400),
        ("queue/join", b"{", 400),
        ("queue/join", b"[" * 100_000, 400),
        ("queue/join", b"[]", 422),
        ("queue/join", b"{}", 422),
        ("queue/join", b'{"data": []}', 422),
        ("run/predict", b"{}", 422),
        (f"call/{NAME}", b"{}", 422),
        (f"call/{NAME}", b"", 400),
        (f"call/v2/{NAME}", b'{"colour": "red"}', 422),
        (f"call/v2/{NAME}", b'"text"', 422),
        ("call/v2/nothing", b"{}", 404),
        ("call/nothing", b'{"data": []}', 404),
    ],
)
def test_empty_and_unknown_requests_are_the_clients_fault(address, path, body, status, capfd):
    answer = requests.post(f"{address}/gradio_api/{path}", data=body, timeout=30)
    assert answer.status_code == status and answer.json()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("value", [1e400, -1, 2**70, "x", True], ids=str)
def test_numbers_out_of_range_are_errors(address, value):
    body = json.dumps({"count": value})
    answer = requests.post(f"{address}/gradio_api/call/v2/{NAME}", data=body, timeout=30)
    if answer.ok:
        events = requests.get(f"{address}/gradio_api/call/{NAME}/{answer.json()['event_id']}", timeout=30).text
        assert "event: error" in events
    else:
        assert answer.status_code < 500
