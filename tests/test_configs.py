"""Every recipe of configs/ loads, and names what there is: no network, no weights."""

import itertools
from pathlib import Path

import pytest

from softprompt_jax.config import flatten
from softprompt_jax.errors import UserError
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.recipes import load_config, load_config_of
from softprompt_jax.tasks import get_task
from softprompt_jax.training.setup import check_prompt, tasks_from_options

CONFIGS = Path(__file__).parents[1] / "configs"
LESTER = str(CONFIGS / "lester2021.py")

# The task, its metrics, and how many target tokens it has.
TASKS = {
    "super_glue/boolq": ({"accuracy"}, 8),
    "super_glue/cb": ({"macro_f1", "accuracy"}, 8),
    "super_glue/copa": ({"accuracy"}, 8),
    "super_glue/multirc": ({"multirc_f1a", "multirc_em"}, 8),
    "super_glue/record": ({"record_f1", "record_em"}, 32),
    "super_glue/rte": ({"accuracy"}, 8),
    "super_glue/wic": ({"accuracy"}, 8),
    "super_glue/wsc.fixed": ({"wsc_accuracy"}, 32),
    "glue/cola": ({"matthews"}, 8),
    "glue/sst2": ({"accuracy"}, 8),
    "glue/mrpc": ({"f1", "accuracy"}, 8),
    "glue/qqp": ({"f1", "accuracy"}, 8),
    "glue/stsb": ({"pearson", "spearman"}, 8),
    "glue/mnli": ({"accuracy"}, 8),
    "glue/qnli": ({"accuracy"}, 8),
    "glue/rte": ({"accuracy"}, 8),
    "squad": ({"squad_f1", "squad_em"}, 32),
}
WIDTHS = {"small": 512, "base": 768, "large": 1024, "xl": 2048, "xxl": 4096}


def lester(*parts):
    return load_config(":".join((LESTER, *parts)))


@pytest.mark.parametrize(("task", "size"), list(itertools.product(TASKS, WIDTHS)))
def test_a_task_and_a_size_by_the_papers_recipe(task, size):
    config = lester(task, size)
    metrics, target_length = TASKS[task]
    assert config.task.name == task
    assert (config.task.max_input_length, config.task.max_target_length) == (512, target_length)
    assert set(get_task(task).metrics) == metrics
    assert {"train", "validation"} <= set(get_task(task).splits)
    assert all("validation" in get_task(other).splits for other in config.evaluate_on)
    assert config.model.name == f"google/t5-{size}-lm-adapt"
    assert model_config(config.model.name).d_model == WIDTHS[size]
    init = "sampled_vocab" if task == "squad" else "class_labels"
    assert (config.prompt.length, config.prompt.init) == (100, init)
    # The prompt can start, which else is told only with the model's files.
    check_prompt(config, model_config(config.model.name), tasks_from_options(config.task))
    assert (config.train.steps, config.train.batch_size) == (30_000, 32)
    assert (config.train.method, config.parallel.layout) == ("prompt_tuning", "auto")
    assert config.train.remat == ("auto" if size in ("small", "base") else "full")
    options = config.optimizer
    assert (options.name, options.learning_rate) == ("lester_adafactor", 0.3)
    assert (options.schedule, options.warmup_steps, options.weight_decay) == ("constant", 0, 1e-5)


def test_what_differs_is_the_task_the_model_and_the_folder():
    first, second = (
        flatten(lester("super_glue/record", "xxl")),
        flatten(lester("glue/sst2", "large")),
    )
    differing = {name for name in first if first[name] != second[name]}
    assert differing == {"task.name", "task.max_target_length", "model.name", "workdir"}
    everything = [lester(*each) for each in itertools.product(TASKS, WIDTHS, METHODS)]
    assert len({config.workdir for config in everything}) == len(everything) == 17 * 5 * 2


METHODS = ("prompt_tuning", "model_tuning")


def test_the_baseline():
    tuned = lester("super_glue/rte", "small", "model_tuning")
    assert (tuned.train.method, tuned.train.batch_size) == ("model_tuning", 128)
    assert (tuned.optimizer.name, tuned.optimizer.learning_rate) == ("adafactor", 0.001)


def test_what_is_scored_too():
    assert lester("squad").evaluate_on == (
        *("mrqa/textbook_qa", "mrqa/bio_asq", "mrqa/race"),
        *("mrqa/relation_extraction", "mrqa/duo_rc", "mrqa/drop"),
    )
    assert lester("glue/qqp").evaluate_on == ("glue/mrpc",)
    assert lester("super_glue/boolq").evaluate_on == ()


def test_overrides_of_a_recipe_with_arguments():
    config = load_config(f"{LESTER}:super_glue/cb:xl", ["--seed", "2", "--prompt.length", "5"])
    assert (config.task.name, config.seed, config.prompt.length) == ("super_glue/cb", 2, 5)
    assert load_config(LESTER) == lester("super_glue/boolq", "base")


def test_targets_fit_their_length():
    """By T5's own vocabulary, with the end of sequence."""
    import sentencepiece

    vocabulary = CONFIGS.parents[1] / "shared" / "data" / "t5.spm.model"
    if not vocabulary.exists():
        pytest.skip("T5's vocabulary (../shared/data/t5.spm.model) is not here")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    for task in TASKS:
        for label in get_task(task).labels:
            assert len(pieces.encode(label)) + 1 <= lester(task).task.max_target_length, label


def other_recipes():
    found = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.py"))
    return sorted(path for path in found if path.name != "lester2021.py")


@pytest.mark.parametrize("path", other_recipes(), ids=str)
def test_the_other_recipes(path):
    kind = PretrainConfig if path.parts[0] in ("pretraining", "lm_adapt") else None
    if kind is None:
        config = load_config(CONFIGS / path)
        get_task(config.task.name)
    else:
        config = load_config_of(kind, CONFIGS / path, [])
    # The recipe is told apart by its folder, and tells how it is started.
    assert config.workdir.startswith("runs/")
    assert f"--config configs/{path.as_posix()}" in (CONFIGS / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (":super_glue/boolk", "has no 'super_glue/boolk'; choose of super_glue/boolq"),
        (":super_glue/boolq:medium", "has no 'medium'; choose of small, base, large, xl, xxl"),
        (":mrqa/drop", "has no 'mrqa/drop'"),
        (":", "has no ''"),
        (":squad:xl:model_tuning:2", r"is given as .*lester2021.py:TASK:SIZE:METHOD \(too many"),
    ],
)
def test_arguments_that_a_recipe_does_not_take(given, message):
    with pytest.raises(UserError, match=message):
        load_config(LESTER + given)


def test_arguments_after_a_recipe_that_takes_none():
    with pytest.raises(UserError, match=r"quickstart\.py is one recipe; leave out :base after it"):
        load_config(f"{CONFIGS / 'quickstart.py'}:base")


def test_a_function_that_makes_no_config(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def config(task):\n    return {'task': task}\n")
    with pytest.raises(UserError, match="does not define `config = RunConfig"):
        load_config(f"{recipe}:a")
    with pytest.raises(UserError, match=r"recipe\.py:TASK \(missing a required argument: 'task'"):
        load_config(recipe)
    recipe.write_text("def config(task):\n    return 1 / 0\n")
    with pytest.raises(UserError, match=r"cannot be read \(ZeroDivisionError"):
        load_config(f"{recipe}:a")
