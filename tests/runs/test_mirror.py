import json
from pathlib import Path

import pytest

from titlesmith.errors import RequestError
from titlesmith.runs.mirror import MARKER, check_target, mirror


@pytest.fixture
def folders(tmp_path):
    """A source with two files, and a target that it was mirrored to."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a").mkdir(parents=True)
    (source / "a" / "one").write_text("1")
    (source / "two").write_text("2")
    mirror(source, target, "book")
    return source, target


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MARKER}


def test_only_listed_files_are_deleted(folders):
    source, target = folders
    (target / ".hidden").write_text("mine")
    (target / "CNAME").write_text("example.org")
    (target / "a" / "mine").write_text("mine")
    (source / "a" / "one").unlink()
    (source / "three").write_text("3")
    mirror(source, target, "book")
    assert names(target) == {".hidden", "CNAME", "a/mine", "two", "three"}
    (target / "a" / "mine").unlink()
    (source / "b").mkdir()
    (source / "two").replace(source / "b" / "two")
    mirror(source, target, "book")
    assert names(target) == {".hidden", "CNAME", "b/two", "three"}


def test_a_folder_of_somebody_else_is_refused_and_unchanged(folders, tmp_path):
    source, _ = folders
    other = tmp_path / "other"
    (other / "book").mkdir(parents=True)
    for name in ("objects.inv", "book/index.html"):
        (other / name).write_text("mine")
    with pytest.raises(RequestError, match="titlesmith did not write it"):
        mirror(source, other, "book")
    assert names(other) == {"objects.inv", "book/index.html"} and not (other / MARKER).exists()
    with pytest.raises(RequestError, match="is a file"):
        mirror(source, other / "objects.inv", "book")


def test_a_file_of_somebody_else_is_not_replaced(folders):
    source, target = folders
    (target / "three").write_text("mine")
    (source / "three").write_text("3")
    with pytest.raises(RequestError, match="three exists and titlesmith did not write it"):
        mirror(source, target, "book")
    assert (target / "three").read_text() == "mine"


def test_a_marker_of_another_kind_or_a_damaged_one_is_refused(folders):
    source, target = folders
    with pytest.raises(RequestError, match="a titlesmith book, not a titlesmith export"):
        mirror(source, target, "export")
    for content in ("{", "[]", '{"kind": "book"}', '{"kind": "book", "files": 1}'):
        (target / MARKER).write_text(content)
        with pytest.raises(RequestError, match="is damaged"):
            check_target(target, "book")


def test_nothing_outside_is_deleted_or_written(folders, tmp_path):
    source, target = folders
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (target / "link").symlink_to(outside)
    listed = ["../outside/file", str(outside / "file"), "link/file", "a/..", "", ".", MARKER]
    (target / MARKER).write_text(json.dumps({"kind": "book", "files": [*listed, "a/one", "two"]}))
    mirror(source, target, "book")
    assert (outside / "file").read_text() == "mine" and (target / MARKER).is_file()
    (source / "link").mkdir()
    (source / "link" / "new").write_text("new")
    with pytest.raises(RequestError, match="leads out of"):
        mirror(source, target, "book")
    assert names(outside) == {"file"}


def test_an_interrupted_call_can_be_repeated(folders, monkeypatch):
    source, target = folders
    (source / "three").write_text("3")
    (source / "two").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            mirror(source, target, "book")
    mirror(source, target, "book")
    assert names(target) == {"a/one", "three"}
