"""The model card says what is known, and nothing on a prompt's card gets out of its place."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest
import yaml

import softprompt_jax
from softprompt_jax.exchange.card import model_card
from softprompt_jax.prompts import SoftPrompt

CONFIG = {"base_model_name_or_path": "google/t5-base-lm-adapt", "task_type": "SEQ_2_SEQ_LM"}
CARD = {
    "model": "google/t5-base-lm-adapt",
    "task": "super_glue/boolq",
    "labels": ["True", "False"],
    "metrics": {"validation/accuracy": 0.71284, "test/outside_labels": 3},
    "step": 1200,
    "init": "class_labels",
    "seed": 0,
}


def parts_of(text):
    """The YAML header and the rest."""
    nothing, header, body = text.split("---\n", 2)
    assert nothing == ""
    return yaml.safe_load(header), body


def card_of(card=CARD, config=CONFIG, **options):
    return parts_of(model_card(SoftPrompt(jnp.zeros((3, 8)), card), config, **options))


def test_all_that_is_known():
    header, body = card_of(repo_id="me/boolq", license="apache-2.0", neighbours=[["yes", "▁true"]])
    assert header == {
        "license": "apache-2.0",
        "library_name": "peft",
        "base_model": "google/t5-base-lm-adapt",
        "tags": ["soft-prompt", "prompt-tuning", "softprompt-jax"],
    }
    for line in (
        "# Soft prompt for `super_glue/boolq`",
        "| base model | `google/t5-base-lm-adapt` |",
        "| labels | `True`, `False` |",
        "| training step | `1200` |",
        "| seed | `0` |",
        "| `validation/accuracy` | `0.7128` |",
        "| `test/outside_labels` | `3` |",
        "| 0 | `yes` `▁true` |",
        'model = AutoPeftModelForSeq2SeqLM.from_pretrained("me/boolq")',
    ):
        assert line in body.splitlines()
    assert "3 virtual tokens of width 8" in body
    assert "4-bit" not in body


def test_what_is_not_known_is_left_out():
    header, body = card_of({}, CONFIG | {"task_type": "CAUSAL_LM"})
    assert header["license"] == "unknown"
    assert "# Soft prompt\n" in body
    assert "AutoPeftModelForCausalLM" in body
    for absent in ("labels", "Scores", "Nearest", "None"):
        assert absent not in body


def test_a_model_that_only_this_package_knows():
    _, body = card_of({"model": "smollm2-135m"}, CONFIG | {"base_model_name_or_path": "a/b"})
    assert "| base model | `a/b` |" in body
    assert "4-bit copy" in body
    assert 'sp.load_model("smollm2-135m")' in body


def test_where_the_packages_own_models_are():
    header, body = card_of({"model": "t5-nano"}, CONFIG | {"base_model_name_or_path": "t5-nano"})
    assert "base_model" not in header
    (folder,) = re.findall(r"`softprompt_jax/(models/.*)`,", body)
    assert (Path(softprompt_jax.__file__).parent / folder / "config.json").is_file()


def test_a_base_model_on_this_machine_is_no_base_model_of_the_hub(tmp_path):
    header, _ = card_of(config=CONFIG | {"base_model_name_or_path": str(tmp_path)})
    assert "base_model" not in header


def test_the_lines_of_code_are_python():
    name = 'me/"\n`boolq'
    _, body = card_of(repo_id=name, config=CONFIG | {"base_model_name_or_path": name})
    blocks = body.split("```python\n")[1:]
    assert len(blocks) == 2
    for block in blocks:
        code = block.split("\n```")[0]
        assert len(code.splitlines()) == 2
        compile(code, "card", "exec")


@pytest.mark.parametrize(
    "strange", ["a`b", "a|b", "a\n\n# b", "<script>", "---\nlicense: mit\n---"]
)
def test_strange_facts_stay_in_their_cell(strange):
    facts = {"task": strange, "labels": [strange], "metrics": {strange: 0.5}, "init": strange}
    header, body = card_of(facts, license="mit", neighbours=[[strange]])
    assert header["license"] == "mit"
    plain, _ = card_of({"task": "t"})
    assert set(header) == set(plain)
    lines = [line for line in body.splitlines() if line.startswith("|")]
    for line in lines:
        bare = line.replace("\\|", "")
        assert bare.count("|") == 3
        assert bare.count("`") % 2 == 0
    assert sum(line.startswith("#") for line in body.splitlines()) == 4
