"""Repositories of the Hugging Face hub, on a small local server and in the hub client's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from semask_d2.checkpoint.hub import Repository, fetch_repository, local_source, repository_of, upload_folder
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.utils.errors import UserError
from tests.helpers.hub_server import COMMIT, Hub

FILES = {"config.yaml": b"VERSION: 2\n", "model.safetensors": b"tensors", "README.md": b"# A model"}


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("facebook/mask2former-swin-tiny-ade-semantic", Repository("facebook/mask2former-swin-tiny-ade-semantic")),
        ("hf://me/model", Repository("me/model")),
        ("hf://me/model@v1", Repository("me/model", "v1")),
        ("hf://me/model@refs/pr/1", Repository("me/model", "refs/pr/1")),
        ("me/model.v2", Repository("me/model.v2")),
        ("run", None),
        ("a/b/c", None),
        ("me/model@v1", None),  # a file may have this name
        ("output/model_final.pth", None),
        ("me/Model.SAFETENSORS", None),
        ("/me/model", None),
        ("../model", None),
        ("timm://swin_tiny", None),
        ("https://example.org/model", None),
    ],
)
def test_names_of_repositories(
    source: str, repository: Repository | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert repository_of(source) == repository


def test_a_path_that_exists_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output" / "run").mkdir(parents=True)
    assert repository_of("output/run") is None
    assert repository_of("output/mistyped") is None, "the folder is there, so a path is meant"
    assert local_source("output/run") == "output/run"
    assert repository_of("hf://output/run") == Repository("output/run")


@pytest.mark.parametrize("source", ["hf://", "hf://model", "hf://a/b/c", "hf://../x", "hf://a/b@", "hf://a/b@ x"])
def test_malformed_addresses(source: str) -> None:
    if source == "hf://a/b@":
        assert repository_of(source) == Repository("a/b")
        return
    with pytest.raises(UserError, match="expected hf://owner/name"):
        repository_of(source)


def test_only_plain_files_are_fetched_and_once(hub: Hub) -> None:
    hub.repositories["me/model"] = {**FILES, "pytorch_model.bin": b"pickle", "train.py": b"import os"}
    folder = fetch_repository(Repository("me/model"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    before = len(hub.requests)
    assert local_source("me/model") == str(folder)
    assert not [request for request in hub.requests[before:] if "/resolve/" in request], "fetched a second time"
    assert local_source("me/model", revision="v1") == str(folder)
    assert any("revision/v1" in request for request in hub.requests)


def test_the_cache_serves_without_a_connection(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["me/model"] = dict(FILES)
    folder = fetch_repository(Repository("me/model"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch_repository(Repository("me/model")) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_repository(Repository("me/model", COMMIT)) == folder
    with pytest.raises(UserError, match=r"me/other: no such file or folder here.*cannot be reached.*HF_ENDPOINT"):
        fetch_repository(Repository("me/other"))


def test_a_cache_that_the_hubs_client_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--me--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for name, content in FILES.items():
        (repository / "blobs" / name).write_bytes(content)
        os.symlink(f"../../blobs/{name}", snapshot / name)
    assert fetch_repository(Repository("me/model")) == snapshot


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.safetensors": b""}, "has neither config.yaml nor config.json"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "no model.safetensors. Pickled weights .* can run code"),
        ({"config.yaml": b"", "model-00001-of-00002.safetensors": b""}, "no model.safetensors.*in several files"),
    ],
)
def test_repositories_without_what_is_read(hub: Hub, files: dict[str, bytes], message: str) -> None:
    hub.repositories["me/model"] = files
    with pytest.raises(UserError, match=rf"me/model: it .*{message}"):
        fetch_repository(Repository("me/model"))


def test_refusals_of_the_hub(hub: Hub) -> None:
    with pytest.raises(UserError, match=r"me/typo: no such file or folder here, and no such repository at http"):
        local_source("me/typo")
    hub.repositories["me/model"] = dict(FILES)
    with pytest.raises(UserError, match="me/model@v9: the repository has no revision 'v9'"):
        local_source("hf://me/model@v9")
    hub.gated.add("me/model")
    with pytest.raises(UserError, match=r"me/model: access must be granted first: accept its terms at .*HF_TOKEN"):
        local_source("me/model")
    with pytest.raises(UserError, match="revision 'v1': run is not a repository"):
        local_source("run", revision="v1")


def test_uploads(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    address = upload_folder(folder, "me/model", private=True, revision=None, message="A model")
    assert address == f"{hub.address}/me/model"
    assert hub.repositories["me/model"] == FILES
    with pytest.raises(UserError, match="expected the name of a repository"):
        upload_folder(folder, "model", private=True, revision=None, message="")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"me/model: cannot be uploaded to http.*HF_TOKEN"):
        upload_folder(folder, "me/model", private=True, revision=None, message="")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot be uploaded to .*; check the connection, or set HF_ENDPOINT"):
        upload_folder(folder, "me/model", private=True, revision=None, message="")


def test_messages_about_timms_weights_name_the_hub_in_use(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"could not be downloaded from {hub.address}/timm/resnet18.a1_in1k: "):
        read_checkpoint("timm://resnet18.a1_in1k")
