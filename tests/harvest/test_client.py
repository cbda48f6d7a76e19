"""The HTTP session that all services share: bounds on time and size, and a network that is absent."""

import socket
import time

import pytest

from servers.atom import Atom
from servers.base import spread
from titlesmith.errors import RunError
from titlesmith.harvest import arxiv, client

QUERY = {"search_query": "all:sound"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    monkeypatch.setattr(client, "DEADLINE", 0.5)


def test_an_answer_that_comes_byte_by_byte_ends_at_the_deadline():
    start = time.monotonic()
    with Atom(spread(5), always="drip") as server, pytest.raises(RunError, match=r"not complete after 0.5 s"):
        arxiv.search(server.address, QUERY)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("fault", ["bomb", "endless"])
def test_an_answer_is_read_up_to_a_size(fault, monkeypatch):
    monkeypatch.setattr(client, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(client, "DEADLINE", 20)
    with (
        Atom(spread(5), always=fault) as server,
        pytest.raises(RunError, match=r"more than 1,048,576 bytes.*HTTP_BYTES"),
    ):
        arxiv.search(server.address, QUERY)
    assert len(server.asked) == 1, "another attempt would not help"


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/", "http://no-such-host.invalid/"])
def test_an_absent_network_is_reported_after_two_attempts(address, monkeypatch, capsys):
    monkeypatch.setattr(client, "ATTEMPTS", 7)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = address.format(port=unused.getsockname()[1])
        attempts = []
        monkeypatch.setattr(client, "turn", lambda url, real=client.turn: attempts.append(url) or real(url))
        with pytest.raises(RunError, match=r"^http://.*cannot be reached .no network.. in 2 attempts"):
            arxiv.search(address, QUERY)
    assert len(attempts) == 2


def test_a_service_that_has_answered_is_waited_for(monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    session, attempts = client.Session(arxiv.FEED), []
    with Atom(spread(5)) as server:
        arxiv.search(server.address, QUERY, session=session)
    monkeypatch.setattr(client, "turn", lambda url, real=client.turn: attempts.append(url) or real(url))
    with pytest.raises(RunError, match="in 3 attempts"):
        arxiv.search(server.address, QUERY, session=session)
    assert len(attempts) == 3
