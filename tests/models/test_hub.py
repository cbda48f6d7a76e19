"""Downloads of models of the transformers library from a local hub, with the hub's real client."""

import json

import pytest

from servers.hub import serving
from titlesmith.errors import FetchError
from titlesmith.models import hub

pytest.importorskip("torch")


@pytest.fixture
def server(project, tmp_path, monkeypatch):
    """A hub with the model me/tiny, and an empty cache."""
    repository = tmp_path / "repositories" / "me" / "tiny"
    repository.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (repository / name).write_text(json.dumps({}))
    (repository / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    with serving(repository.parents[1]) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def test_downloaded_weights_are_verified_by_their_sha256(server):
    server.faults["model.safetensors"] = "wrong byte"
    with pytest.raises(FetchError, match=r"me/tiny/model\.safetensors: its SHA-256 is not .* downloads it again"):
        hub.download("hf:me/tiny", ["*"], "")
    server.faults.clear()
    path = hub.download("hf:me/tiny", ["*"], "")
    assert (path / "model.safetensors").read_bytes() == bytes(range(256)) * 8
