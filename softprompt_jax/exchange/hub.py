"""Files of a prompt to and from the Hugging Face hub; what goes wrong is told in one sentence.

The server is huggingface_hub's own: `HF_ENDPOINT` names another one.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from softprompt_jax.errors import UserError
from softprompt_jax.models.hub import looks_like_hub_id


def check_repo_id(repo_id: str) -> None:
    """Refuses what is no "owner/name".

    Raises:
        UserError: so it is.
    """
    if not looks_like_hub_id(repo_id) or "/" not in repo_id:
        raise UserError(f"{repo_id!r} is no repository of the hub; write it as owner/name.")
    try:
        huggingface_hub.utils.validate_repo_id(repo_id)
    except errors.HFValidationError as error:
        raise UserError(
            f"{repo_id!r} is no repository of the hub ({_reason(error)}); rename it."
        ) from None


def fetch(repo_id: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Fetches files of a repository, or finds them in the cache.

    Args:
        repo_id: "owner/name".
        files: names of files; those that are not there are left out.
        revision: branch, tag or commit; None: main.

    Returns:
        The folder of the snapshot in the hub's cache; its name is the commit.

    Raises:
        UserError: the repository is not found or gated, or neither reachable nor in the cache.
    """
    check_repo_id(repo_id)
    try:
        return Path(
            huggingface_hub.HfApi().snapshot_download(
                repo_id, revision=revision, allow_patterns=list(files)
            )
        )
    except Exception as error:  # the hub's own errors, and those of the network below it
        raise _explain(repo_id, error) from error


def check_token(token: str | None) -> None:
    """Refuses to write to the hub as nobody.

    Raises:
        UserError: there is no token, here or where huggingface_hub keeps it.
    """
    try:
        known = token or huggingface_hub.get_token()
    except Exception as error:  # a token that must be fetched or refreshed first
        raise UserError(
            f"The Hugging Face token cannot be had ({_reason(error)}); log in with `hf auth login`."
        ) from error
    if not known:
        raise UserError(
            "Nobody is logged in to the Hugging Face hub; log in with `hf auth login`, or set "
            "HF_TOKEN to a token that may write."
        )


def upload(folder: Path, repo_id: str, message: str, private: bool, token: str | None) -> str:
    """Makes the repository unless it is there, and adds a folder's files in one commit.

    Args:
        folder: whose files are added.
        repo_id: "owner/name".
        message: of the commit.
        private: whether the repository is to be private; a new one is made so.
        token: of an account that may write there; None: the one that is logged in.

    Returns:
        The repository's address.

    Raises:
        UserError: the name is none, nobody is logged in, the token may not write there, a
            repository that is to be private is public, the hub refuses the files, or it cannot be
            reached.
    """
    check_repo_id(repo_id)
    check_token(token)
    api = huggingface_hub.HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        # The hub leaves a repository that is there already as public as it is.
        if private and not api.repo_info(repo_id).private:
            raise UserError(
                f"{repo_id} is there already and public; make it private on its hub page, or "
                "choose another name."
            )
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except UserError:
        raise
    except Exception as error:
        raise _explain(repo_id, error, writing=True) from error
    return str(url)


def _explain(repo_id: str, error: Exception, writing: bool = False) -> UserError:
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if huggingface_hub.constants.is_offline_mode():
        mend = (
            "cannot be written while HF_HUB_OFFLINE is set; unset it"
            if writing
            else "is not wholly in the local cache and HF_HUB_OFFLINE forbids to fetch it; unset "
            "HF_HUB_OFFLINE, or give a local folder"
        )
    elif writing and status in (401, 403):
        mend = (
            f"does not let this token write ({_reason(error)}); check the owner's name, and log in "
            "with `hf auth login` by a token that may write"
        )
    elif isinstance(error, errors.GatedRepoError):
        mend = "is gated; ask for access on its hub page and log in with `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError):
        mend = (
            "is neither a local folder nor found on the Hugging Face hub; check the spelling, and "
            "log in with `hf auth login` if it is private"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        mend = "has no such revision; give a branch, tag or commit that it has"
    elif isinstance(error, ValueError) and writing:
        mend = f"was refused by the hub ({_reason(error)}); mend the model card's fields"
    else:
        verb = "written to" if writing else "fetched from"
        mend = (
            f"could not be {verb} the Hugging Face hub ({type(error).__name__}: {_reason(error)}); "
            "check the network connection and try again"
        )
    return UserError(f"The repository {repo_id} {mend}.")


def _reason(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip().rstrip(".")[:200]
