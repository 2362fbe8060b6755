"""Repositories of the Hugging Face hub: recognizing their names, downloading and uploading.

`huggingface_hub` does the transfers, with its cache, resumption, progress and environment variables (HF_ENDPOINT,
HF_HOME, HF_HUB_OFFLINE, HF_TOKEN). Only plain data is downloaded: safetensors, YAML, JSON and the model card.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import CONFIG_NAME, WEIGHTS_NAME

logger = logging.getLogger(__name__)

SCHEME = "hf://"
CARD_NAME = "README.md"
CONFIGS = (CONFIG_NAME, "config.json")  # this project's, and transformers'
FETCHED = (*CONFIGS, "preprocessor_config.json", WEIGHTS_NAME, CARD_NAME)
PICKLES = ("pytorch_model.bin", "*.pth")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
FILES = (".pth", ".pt", ".pkl", ".bin", ".safetensors", ".yaml", ".yml", ".json", ".onnx", ".xml", ".pt2")


class Repository(NamedTuple):
    """A repository "owner/name" at a branch, tag or commit; the revision None is its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def repository_of(source: str | os.PathLike) -> Repository | None:
    """Return the repository that `source` names, None if it names something else.

    "hf://owner/name" and "hf://owner/name@revision" always name a repository; "owner/name" does if neither that path
    nor a folder "owner" exists and the name has no file suffix. Raises `UserError` for a malformed hf:// address.
    """
    text = os.fspath(source)
    name, _, revision = text.removeprefix(SCHEME).partition("@")
    valid = bool(NAME.fullmatch(name)) and (not revision or bool(REVISION.fullmatch(revision)))
    if text.startswith(SCHEME):
        if not valid:
            raise UserError(f"{text}: expected {SCHEME}owner/name or {SCHEME}owner/name@revision")
        return Repository(name, revision or None)
    if not valid or "@" in text or name.lower().endswith(FILES):
        return None
    if os.path.lexists(text) or os.path.lexists(text.partition("/")[0]):
        return None
    return Repository(name)


def hub_address(name: str) -> str:
    """Return the address of a repository on the hub that is in use (HF_ENDPOINT)."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def fetch_repository(repository: Repository) -> Path:
    """Return a folder with the repository's config and weights, from the cache or downloaded into it.

    Raises `UserError` if the repository or revision does not exist, access is denied, there is neither a connection
    nor a copy in the cache, or it has no safetensors or no config that this project reads.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    address = hub_address(repository.name)
    logger.info("Fetching %s or its copy in %s", address, constants.HF_HUB_CACHE)
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository.name, revision=repository.revision, allow_patterns=list(FETCHED), library_name="semask_d2"
            )
        )
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repository}: access must be granted first: accept its terms at {address}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{repository}: the repository has no revision {repository.revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{repository}: no such file or folder here, and no such repository at {address} (a private one needs "
            "`hf auth login` or HF_TOKEN)"
        ) from error
    except Exception as error:  # network and file system raise errors of many types
        raise UserError(
            f"{repository}: no such file or folder here, and {address} cannot be reached ({reason(error)}); the cache "
            f"{constants.HF_HUB_CACHE} has no copy. Download it where there is a connection, or set "
            "HF_ENDPOINT to a mirror or HF_HOME to another cache"
        ) from error
    require_plain(folder, repository)
    return folder


def require_plain(folder: Path, repository: Repository) -> None:
    """Raise `UserError` unless a fetched folder has a config and safetensors."""
    if not any((folder / name).is_file() for name in CONFIGS):
        raise UserError(
            f"{repository}: it has neither {' nor '.join(CONFIGS)}, so it is not a model that can be read here"
        )
    if not (folder / WEIGHTS_NAME).is_file():
        raise UserError(
            f"{repository}: it has no {WEIGHTS_NAME}. Pickled weights ({', '.join(PICKLES)}) are not downloaded, "
            "because loading them can run code, nor are weights in several files; convert them to one safetensors "
            f"file, or name a revision that has one ({SCHEME}{repository.name}@refs/pr/1)"
        )


def local_source(source: str | os.PathLike, revision: str | None = None) -> str:
    """Return `source`, or, if it names a repository, the folder with its local copy; errors as `fetch_repository`."""
    repository = repository_of(source)
    if repository is None:
        if revision is not None:
            raise UserError(f"revision {revision!r}: {os.fspath(source)} is not a repository of the hub")
        return os.fspath(source)
    if revision is not None:
        repository = repository_of(f"{SCHEME}{repository.name}@{revision}")
        assert repository is not None
    return str(fetch_repository(repository))


def upload_folder(folder: Path, repository: str, *, private: bool, revision: str | None, message: str) -> str:
    """Upload the files of `folder` to the repository "owner/name", creating it if needed; return its address.

    Raises `UserError` if the hub refuses, for example without a login.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if not NAME.fullmatch(repository):
        raise UserError(f"{repository}: expected the name of a repository, owner/name")
    api = huggingface_hub.HfApi(library_name="semask_d2")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:
        refused = isinstance(error, (errors.HfHubHTTPError, errors.LocalTokenNotFoundError))
        advice = "a token with write access is needed: `hf auth login` or HF_TOKEN"
        if not refused:
            advice = "check the connection, or set HF_ENDPOINT to a hub that can be reached"
        raise UserError(f"{repository}: cannot be uploaded to {api.endpoint} ({reason(error)}); {advice}") from error
    return f"{api.endpoint}/{repository}"


def reason(error: BaseException) -> str:
    """Return the first line of the root cause of `error`, or its type's name."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
