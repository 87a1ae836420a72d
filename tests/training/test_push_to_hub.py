import numpy as np
import pytest
from small_runs import changed, small_config

from softprompt_jax.errors import UserError
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.training.tuning import train


def test_the_best_prompt_goes_to_the_hub_at_the_end(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setenv("HF_TOKEN", "writer")
    monkeypatch.setattr("softprompt_jax.training.tuning.on_the_hub", lambda name: True)
    monkeypatch.setattr(SoftPrompt, "push_to_hub", lambda *given: pushed.append(given))
    config = small_config(tmp_path, train__steps=4, push_to_hub="me/sentiment")
    result = train(config)
    ((prompt, repository),) = pushed
    assert repository == "me/sentiment"
    np.testing.assert_array_equal(prompt.vectors, result.best_prompt.vectors)
    # A finished run may be pushed later, or elsewhere.
    train(changed(config, push_to_hub="me/other"))
    assert pushed[1][1] == "me/other"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push_to_hub": "no owner"}, "owner/name"),
        ({"push_to_hub": "me/x"}, "is no hub id"),
        ({"push_to_hub": "me/x", "train__method": "model_tuning"}, "Only prompts"),
        ({"push_to_hub": "me/x", "prompt__parameterization": "dept"}, "more than vectors"),
        ({"push_to_hub": "me/x", "token": None}, "hf auth login"),
    ],
)
def test_mistakes_before_any_work(tmp_path, monkeypatch, options, message):
    token = {"HF_TOKEN": "writer", **({"HF_TOKEN": ""} if "token" in options else {})}
    monkeypatch.setenv("HF_TOKEN", token["HF_TOKEN"])
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("weights were read"))
    options.pop("token", None)
    config = small_config(tmp_path, **options)
    with pytest.raises(UserError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()
