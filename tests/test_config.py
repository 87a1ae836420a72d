import dataclasses
import inspect
import json
import typing

import pytest
from small_runs import changed, small_config

from softprompt_jax.config import RunConfig, flatten
from softprompt_jax.config_checks import check
from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.recipes import load_config


def test_json_round_trip(tmp_path):
    config = changed(
        small_config(tmp_path),
        task__labels=("yes", "no"),
        train__freeze=(r"a\.b", "c"),
        prompt__uniform_range=(0.0, 0.5),
        seed=7,
    )
    assert RunConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["task"]["labels"] == ["yes", "no"]


def test_an_older_config_gets_the_defaults():
    config = RunConfig.from_json('{"train": {"steps": 5}}')
    assert config == changed(RunConfig(), train__steps=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": {"stepz": 5}}', "unknown field train.stepz"),
        ('{"train": 5}', "where train. needs fields"),
        ("[]", "where it needs fields"),
        ("{", "not valid JSON"),
    ],
)
def test_json_that_is_no_config(text, message):
    with pytest.raises(UserError, match=message):
        RunConfig.from_json(text)


def test_every_option_has_a_description():
    """tyro reads them from the source, and `--help` shows them."""

    def visit(cls):
        source = "".join(inspect.getsource(kind) for kind in cls.__mro__[:-1])
        for field, hint in typing.get_type_hints(cls).items():
            if dataclasses.is_dataclass(hint):
                assert hint.__doc__
                visit(hint)
            else:
                after = source.split(f"\n    {field}: ")[1].split("\n    ")
                assert any(part.startswith('"""') for part in after[1:6]), field

    visit(RunConfig)
    visit(PretrainConfig)


def test_help_shows_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(None, ["--help"])
    assert stop.value.code in (None, 0)
    said = capsys.readouterr().out.replace("_", "-")
    for name in flatten(RunConfig()):
        assert f"--{name}".replace("_", "-") in said


def test_flatten_names_leaves_as_the_command_line_does():
    leaves = flatten(RunConfig())
    assert leaves["train.steps"] == 100
    assert leaves["seed"] == 0
    assert "train" not in leaves


def test_options_are_replaced_by_dotted_name():
    config = RunConfig().replaced({"prompt.length": 7, "train.steps": 9, "seed": 3})
    assert (config.prompt.length, config.train.steps, config.seed) == (7, 9, 3)
    assert config.prompt.init == RunConfig().prompt.init
    for wrong in ("prompt.lenght", "promt.length", "sed"):
        with pytest.raises(UserError, match=f"no option {wrong};"):
            RunConfig().replaced({wrong: 1})


def test_overrides():
    config = load_config(
        None,
        [
            *("--train.steps", "50", "--optimizer.learning-rate=0.1"),
            *("--prompt.uniform_range", "-1", "1", "--train.evaluate-first"),
            *("--task.labels", "yes", "no", "--train.patience", "3"),
        ],
    )
    assert config == changed(
        RunConfig(),
        train__steps=50,
        optimizer__learning_rate=0.1,
        prompt__uniform_range=(-1.0, 1.0),
        train__evaluate_first=True,
        task__labels=("yes", "no"),
        train__patience=3,
    )
    assert not load_config(None, ["--train.no-evaluate-first"]).train.evaluate_first


def test_a_recipe_and_overrides_on_top(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from softprompt_jax.config import OptimizerOptions, RunConfig\n"
        "config = RunConfig(seed=3, optimizer=OptimizerOptions(name='adamw'))\n"
    )
    # The recipe lacks what its optimizer needs; the command line gives it.
    config = load_config(recipe, ["--optimizer.learning_rate", "0.01"])
    assert (config.seed, config.optimizer.name) == (3, "adamw")
    with pytest.raises(UserError, match="adamw has no default learning rate"):
        load_config(recipe)


def test_the_quickstart_recipe_is_sound(pytestconfig):
    config = load_config(pytestconfig.rootpath / "configs" / "quickstart.py")
    assert config.workdir == "runs/quickstart"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__steps": 0}, "--train.steps is 0; it must be at least 1"),
        ({"train__steps": 1.5}, "--train.steps is 1.5; it must be a whole number"),
        ({"train__steps": "9"}, "--train.steps is '9'; it must be a whole number"),
        ({"train__steps": True}, "--train.steps is True; it must be a whole number"),
        ({"train__z_loss": float("nan")}, "--train.z_loss is nan"),
        ({"train__patience": 0}, "--train.patience is 0"),
        ({"optimizer__name": "sgd"}, "must be one of lester_adafactor, adafactor, adamw"),
        ({"optimizer__learning_rate": -1.0}, "must be a positive number"),
        ({"optimizer__learning_rate": float("inf")}, "must be a positive number"),
        ({"optimizer__max_gradient_norm": 0}, "must be a positive number"),
        ({"model__dtype": "float16"}, "must be one of auto, float32, bfloat16"),
        ({"model__dropout_rate": 1.0}, r"in \[0, 1\)"),
        ({"train__method": "model_tuning", "model__dtype": "bfloat16"}, "float32 weights"),
        ({"prompt__uniform_range": (1.0, 1.0)}, "the first must be smaller"),
        ({"prompt__uniform_range": (1.0,)}, r"be a tuple \(a number, a number\)"),
        ({"prompt__init": "text"}, "--prompt.init text needs --prompt.text"),
        ({"prompt__init": "text", "prompt__text": " "}, "needs --prompt.text"),
        ({"prompt__init": "file"}, "--prompt.init file needs --prompt.file"),
        ({"prompt__file": "runs/x/best"}, "--prompt.file is for --prompt.init file; give both"),
        ({"prompt__text": "a film"}, "--prompt.text is for --prompt.init text; give both"),
        ({"prompt__network_learning_rate": 0.1}, "a plain prompt has --optimizer.learning_rate"),
        ({"task__labels": ["yes", "no"]}, r"be a tuple \(text, \.\.\.\) or None"),
        ({"task__name": None}, "must be text"),
        ({"train__freeze": ("(",)}, "bad regular expression"),
        ({"train": None}, "--train is None; it must be fields"),
        ({"seed": 2**32}, r"below 2\*\*32"),
        ({"seed": -1}, "at least 0"),
        ({"train__keep_steps": (5, -1)}, "has -1; steps start at 0"),
        ({"train__keep_steps": (5, 101)}, "has 101, but the run ends at step 100"),
        ({"train__z_loss": float("inf")}, "--train.z_loss has inf; it must be a finite number"),
        ({"prompt__uniform_range": (float("-inf"), 0.0)}, "has -inf; it must be a finite number"),
        ({"task__input_column": "text"}, "--task.input_column is of a task of files; leave it out"),
        ({"task__mixture": ("a", "b"), "task__labels": ("x", "y")}, "leave out --task.labels"),
        ({"task__mixture": ("a",), "task__target_column": "x"}, "leave out --task.target_column"),
    ],
)
def test_values_that_no_run_can_have(changes, message):
    with pytest.raises(UserError, match=message):
        check(changed(RunConfig(), **changes))


def test_the_defaults_are_sound():
    check(RunConfig())
