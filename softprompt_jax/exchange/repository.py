"""A prompt as a repository of the hub: PEFT's files, our card and a README.md in one.

`read_prompt` takes a prompt from wherever it is.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from softprompt_jax.errors import UserError
from softprompt_jax.exchange.adapter_config import CONFIG_FILE, make_config
from softprompt_jax.exchange.card import model_card, on_the_hub
from softprompt_jax.exchange.google import import_npy
from softprompt_jax.exchange.hub import check_repo_id, check_token, fetch, upload
from softprompt_jax.exchange.peft import (
    fetch_weights,
    import_peft,
    read_adapter,
    write_adapter,
)
from softprompt_jax.files import expand_user, recover_folder
from softprompt_jax.models.hub import looks_like_hub_id
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts.soft_prompt import CARD_FILE, TENSOR_FILE, SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt, load_prompt


def push_to_hub(
    prompt: SoftPrompt,
    repo_id: str,
    *,
    model: LanguageModel | ModelFiles | None = None,
    base_model: str | None = None,
    license: str = "unknown",
    neighbours: Sequence[Sequence[str]] = (),
    private: bool = False,
    token: str | None = None,
) -> str:
    """Puts a prompt on the hub, in one commit, so that PEFT and this package both load it.

    Where the prompt's card names a folder of this machine as its model, the repository's card
    names `base_model`.

    Args:
        prompt: what to put there.
        repo_id: "owner/name"; made unless it is there.
        model: as for `export_peft`.
        base_model: as for `export_peft`; must be a hub id, because others are to find it.
        license: the hub's name of the prompt's licence, such as "apache-2.0".
        neighbours: for the model card: for each position the nearest words of the vocabulary.
        private: whether a new repository is private.
        token: of an account that may write there; None: the one that is logged in.

    Returns:
        The repository's address.

    Raises:
        UserError: as `export_peft` and `hub.upload`, or the base model is no hub id.
    """
    check_repo_id(repo_id)
    check_token(token)
    config = make_config(prompt, model=model, base_model=base_model)
    base = config["base_model_name_or_path"]
    if not on_the_hub(base):
        raise UserError(
            f"The prompt's base model {base} is no hub id, so nobody else would find it; name the "
            "hub's with base_model (--base-model owner/name)."
        )
    if not on_the_hub(prompt.card.get("model")):  # a folder of this machine, of no use to others
        prompt = SoftPrompt(prompt.vectors, {**prompt.card, "model": base})
    readme = model_card(prompt, config, repo_id=repo_id, license=license, neighbours=neighbours)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "adapter"
        write_adapter(prompt, config, folder, readme)
        return upload(folder, repo_id, "Upload a soft prompt", private, token)


def from_hub(repo_id: str, *, revision: str | None = None) -> SoftPrompt:
    """A prompt from the hub: what `push_to_hub` wrote, PEFT's own, or a prompt folder.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit; None: main.

    Raises:
        UserError: the repository is not found or reached, or holds no prompt that can be read, or
            one that is more than vectors.
    """
    return _plain(_from_hub(repo_id, revision), repo_id)


def _from_hub(repo_id: str, revision: str | None) -> AnyTrainedPrompt:
    folder = fetch(repo_id, [CONFIG_FILE, CARD_FILE], revision)
    if (folder / CONFIG_FILE).is_file():
        return read_adapter(folder, lambda: fetch_weights(repo_id, folder))
    if (folder / CARD_FILE).is_file():
        return load_prompt(fetch(repo_id, [CARD_FILE, TENSOR_FILE], folder.name))
    raise UserError(
        f"The repository {repo_id} holds no prompt ({CONFIG_FILE} or {CARD_FILE}); choose another."
    )


def read_prompt(
    source: str | Path,
    *,
    model: LanguageModel | ModelFiles | None = None,
    revision: str | None = None,
) -> SoftPrompt:
    """A prompt's vectors in any form that is known.

    Arguments as of `read_any_prompt`.

    Raises:
        UserError: as `read_any_prompt`, or the prompt is more than vectors.
    """
    return _plain(read_any_prompt(source, model=model, revision=revision), source)


def _plain(prompt: AnyTrainedPrompt, source: str | Path) -> SoftPrompt:
    if not isinstance(prompt, SoftPrompt):
        raise UserError(
            f"The prompt in {source} is a {prompt.kind!r} prompt, which is more than vectors; use "
            "it with predict, evaluate or Predictor, or take a plain prompt."
        )
    return prompt


def read_any_prompt(
    source: str | Path,
    *,
    model: LanguageModel | ModelFiles | None = None,
    revision: str | None = None,
) -> AnyTrainedPrompt:
    """A prompt of any kind, in any form that is known.

    Args:
        source: a prompt folder, the folder of a PEFT adapter, a .npy file, or "owner/name" on the
            hub; what is there on disk comes first.
        model: what the prompt is for, to be checked; None: whatever the prompt says.
        revision: of the repository on the hub: branch, tag or commit; None: main.

    Raises:
        UserError: there is no prompt, it is damaged, or it does not fit the model.
    """
    path = expand_user(source)
    if path.suffix == ".npy":
        return import_npy(path, model=model)
    recover_folder(path)
    if (path / CONFIG_FILE).is_file():
        return import_peft(path, model=model)
    if path.exists() or not (looks_like_hub_id(str(source)) and "/" in str(source)):
        prompt = load_prompt(path)
    else:
        prompt = _from_hub(str(source), revision)
    if model is not None:
        prompt.check_fits(model.config, model.name)
    return prompt
