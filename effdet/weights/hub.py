"""Folders of weights in repositories of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effdet.download import is_reachable
from effdet.weights.own_format import CONFIG, WEIGHTS

SCHEMES = ("hf-hub:", "hf_hub:")
PICKLED_WEIGHTS = "pytorch_model.bin"  # the hub's older name


def download(name: str) -> Path:
    """Return the local folder of ``hf-hub:OWNER/NAME`` or ``hf-hub:OWNER/NAME@REVISION``, downloaded if need be.

    Raises:
        FileNotFoundError: If it is not in the cache and the hub cannot be reached, or the hub has no such files.
        ValueError: If the name is none.
    """
    repository, _, revision = name.split(":", 1)[1].partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"a repository of the hub must be named hf-hub:OWNER/NAME, got '{name}'")
    config = fetch_file(repository, CONFIG, revision or None)
    for weights in (WEIGHTS, PICKLED_WEIGHTS):
        found = fetch_file(repository, weights, revision or None)
        if found is not None:
            return found.parent
    what = "has no model.safetensors" if config is not None else "has neither config.json nor model.safetensors"
    raise FileNotFoundError(f"{name} {what}; a repository must hold what save_pretrained writes to a folder")


def fetch_file(repository: str, file_name: str, revision: str | None = None) -> Path | None:
    """Return a file of a repository, from the hub if it can be reached, else from the cache; None if there is none.

    Raises:
        FileNotFoundError: If the hub cannot be reached and the cache does not have it, or it knows no such repository.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        cached = try_to_load_from_cache(repository, file_name, cache_dir=constants.HF_HUB_CACHE, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if cached is not None:  # the cache knows that the repository has no such file
            return None
        raise FileNotFoundError(
            f"{file_name} of {repository} is not in the cache {constants.HF_HUB_CACHE} and {constants.ENDPOINT} cannot "
            "be reached; download the repository elsewhere and give the path of its folder"
        )
    try:
        options: dict[str, Any] = {"cache_dir": constants.HF_HUB_CACHE, "endpoint": constants.ENDPOINT}
        return Path(hf_hub_download(repository, file_name, revision=revision, **options))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{file_name} of {repository} cannot be downloaded: {error}") from error
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        raise FileNotFoundError(f"{repository} cannot be fetched from {constants.ENDPOINT}: {reason}") from error


def upload_folder(
    folder: str | Path, repository: str, *, private: bool | None, revision: str | None, message: str, token: str | None
) -> str:
    """Make a repository if there is none, upload the files of a folder in one commit, and return the commit's address.

    A README that the repository has already is kept.

    Raises:
        ConnectionError: If the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        raise ConnectionError(
            f"{constants.ENDPOINT} cannot be reached; save_pretrained(FOLDER) writes the same files for later"
        )
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
    kept = ["README.md"] if api.file_exists(repository, "README.md", revision=revision) else None
    commit = api.upload_folder(
        repo_id=repository, folder_path=folder, revision=revision, commit_message=message, ignore_patterns=kept
    )
    return str(commit.commit_url)
