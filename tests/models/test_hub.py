"""Downloads of models of the transformers library from a local hub, with the hub's real client."""

import json

import pytest

pytest.importorskip("torch")

from servers.hub import COMMIT, serving
from tiny import made
from titlesmith import models
from titlesmith.errors import FetchError, RequestError
from titlesmith.models import hub


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


def publish(server, project):
    """Replaces the server's repository by a model that can be loaded."""
    made(project, "gpt2")
    repository = server.folder / "me" / "tiny"
    for file in (project / "models" / "gpt2").iterdir():
        (repository / file.name).write_bytes(file.read_bytes())
    return repository


def test_a_model_is_downloaded_at_its_revision_and_then_found_in_the_cache(server, project):
    publish(server, project)
    folder = models.folder(f"hf:me/tiny@{COMMIT}")
    assert folder.name == COMMIT and models.context(f"hf:me/tiny@{COMMIT}") == 1024
    assert all(f"/{COMMIT}" in path for _, path, _, _ in server.requests)
    server.requests.clear()
    assert models.folder(f"hf:me/tiny@{COMMIT}") == folder and not server.requests
    # A copy below models/ with the revision in its name needs no network
    copy = project / "models" / "me" / "tiny@v2"
    copy.parent.mkdir(parents=True)
    (project / "models" / "gpt2").rename(copy)
    assert models.folder("hf:me/tiny@v2") == copy


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("tokenizer", RequestError, r"lacks tokenizer\.json"),
        ("gated", RequestError, "hf:me/tiny .* is gated: accept its terms on its page on the hub, and set HF_TOKEN"),
        ("name", RequestError, "hf:me/other does not exist here, and cannot be downloaded .*Repo"),
        ("path", RequestError, "/no/such/folder is neither a folder nor a .gguf file"),
        ("network", FetchError, "does not exist here, and cannot be downloaded .*Copy its files to .*me/tiny"),
        (
            "code",
            RequestError,
            r"config\.json cannot be read: it needs Python code from its repository, which",
        ),
    ],
)
def test_errors_say_what_is_missing(server, project, monkeypatch, fault, error, words):
    name = {"name": "hf:me/other", "path": "hf:/no/such/folder"}.get(fault, "hf:me/tiny")
    repository = publish(server, project)
    server.gated = fault == "gated"
    if fault == "tokenizer":
        for file in repository.glob("tokenizer*"):
            file.unlink()
    elif fault == "code":
        own = {"AutoConfig": "configuration.Own", "AutoModelForCausalLM": "modeling.Own"}
        content = {"auto_map": own, "model_type": "own"}
        (repository / "config.json").write_text(json.dumps(content))
    elif fault == "network":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(error, match=words) as refused:
        models.hyperparameters(name, 0)
        models.folder(name)
    assert "trust_remote_code" not in str(refused.value)
