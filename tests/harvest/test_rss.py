from datetime import date, datetime

import pytest

from servers.base import Paper
from servers.rss import Rss
from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import SCHEMA, check, client, rss
from titlesmith.harvest.schema import Faults

SETTINGS = {"source": "rss", "since": "", "until": "", "query": "", "categories": ["eess.AS", "cs.CL"]}
DAY = datetime(2024, 1, 5)
PAPERS = [
    Paper("2401.01234", DAY, title="new approaches to\n  hearing"),
    Paper("hep-th/9912001", DAY, title="cross sections of sound", categories="hep-th cs.CL", versions=3),
    Paper("2312.00001", DAY, title="replace nothing", versions=2),
    Paper("2312.00002", DAY, title="replace-cross that", categories="math.AG cs.CL", versions=2),
    Paper("2401.00009", DAY, title="new in another category", categories="cs.CV"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    monkeypatch.setattr(client, "TIMEOUT", (1, 0.4))


def harvest(server, folder, faults=None):
    (found,) = rss.read(SETTINGS | {"service": server.address}, folder, Faults() if faults is None else faults)
    return found


def test_new_papers_and_cross_lists_without_the_prefix_and_replacements_counted(tmp_path):
    faults = Faults()
    with Rss(PAPERS) as server:
        found = harvest(server, tmp_path, faults)
    assert [q["path"] for q in server.asked] == ["/service/eess.AS+cs.CL"]
    assert dict(found.schema).items() > SCHEMA.items()
    new, cross = found.to_dicts()
    assert new == {
        "id": "2401.01234",
        "title": "new approaches to hearing",
        "abstract": "We study sound & <math>.\n  It is loud.",
        "authors": ["Ada Byron", "Émile Borel"],
        "categories": ["eess.AS", "cs.SD"],
        "primary_category": "eess.AS",
        "published": date(2024, 1, 8),
        "updated": date(2024, 1, 8),
        "doi": "10.1000/2401.01234",
        "journal_ref": None,
        "comments": None,
        **dict.fromkeys(("submitter", "license", "report_no", "versions")),
        "announced": "new",
    }
    assert (cross["id"], cross["announced"], cross["published"]) == ("hep-th/9912001", "cross", date(1999, 12, 1))
    assert {reason: entry["rows"] for reason, entry in faults.items()} == {
        "announced as replace, no new papers": 1,
        "announced as replace-cross, no new papers": 1,
    }


def test_a_broken_item_is_counted_and_stops_nothing(tmp_path):
    faults = Faults()
    with Rss([Paper("odd", DAY, title="new oddity"), *PAPERS]) as server:
        assert harvest(server, tmp_path, faults).height == 2
    assert any("odd" in entry["examples"][0] for entry in faults.values())


@pytest.mark.parametrize("fault", ["hang", "cut", "seconds"])
def test_every_paper_once_after_a_fault(tmp_path, fault):
    with Rss(PAPERS, {0: fault}) as server:
        assert harvest(server, tmp_path)["id"].to_list() == ["2401.01234", "hep-th/9912001"]
    assert len(server.asked) == 2 and server.early == 0


def test_a_day_without_announcements_says_when_there_are_some(tmp_path):
    with Rss(PAPERS, always="empty") as server, pytest.raises(RunError, match="Sunday to Thursday"):
        harvest(server, tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"categories": []}, "source rss needs categories, "), ({"query": "ti:x"}, "use source arxiv")],
)
def test_wrong_requests_are_refused_before_the_first_request(settings, said):
    with pytest.raises(RequestError, match=said):
        check(SETTINGS | settings)
