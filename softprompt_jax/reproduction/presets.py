"""At which scale the paper is reproduced: its own, a small one, or one that ends in minutes.

A preset has the recipe that all experiments start from; an experiment only tells what differs by
cell. The tasks of the small presets are listed here and nowhere else.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt_jax.config import (
    ModelOptions,
    OptimizerOptions,
    PromptOptions,
    RunConfig,
    TaskOptions,
    TrainOptions,
)
from softprompt_jax.errors import UserError

Changes = Mapping[str, Any]
"""Options by dotted name, as in {"prompt.length": 5}."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A model of a preset, before and after LM adaptation. "{family}" is where `--family` points.

    Attributes:
        label: in tables and figures.
        model: LM-adapted, as `load_model` takes it.
        corrupted: the same before LM adaptation, span-corrupted only; None: there is none, and
            figure 3(c) is without this size.
        adaptation: folder of the run that made `model` of `corrupted` and kept models on the way;
            None: there is none, and figure 3(d) is without this size.
        changes: of the preset's recipe, for this model.
    """

    label: str
    model: str
    corrupted: str | None = None
    adaptation: str | None = None
    changes: Changes = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A scale: which models, tasks and seeds, and the recipe of one run.

    Attributes:
        name: on the command line.
        about: in one line.
        sizes: one family of T5s, the smallest first.
        tasks: that every point of a grid is trained on, one run each; a point's score is their
            mean.
        recipe: of a prompt; model, task, folder and seed are filled in by cell.
        model_tuning: what differs from the recipe where the whole model is tuned.
        seeds: of the runs that a mean is taken over.
        others: models beside the family, in the experiments that compare models.
        multitask: tasks that multi-task model tuning mixes beside `tasks`.
        multitask_tuning: what differs from `model_tuning` there.
        shots: examples in a prompt that is designed and not trained.
        family: folder of pre-training runs, unless `--family` names another.
        is_the_papers: models, tasks and steps are the paper's, so its numbers can be compared.
    """

    name: str
    about: str
    sizes: tuple[Size, ...]
    tasks: tuple[TaskOptions, ...]
    recipe: RunConfig
    model_tuning: Changes
    seeds: tuple[int, ...] = (0, 1, 2)
    others: tuple[Size, ...] = ()
    multitask: tuple[str, ...] = ()
    multitask_tuning: Changes = dataclasses.field(default_factory=dict)
    shots: int = 16
    family: str = "runs/pretraining"
    is_the_papers: bool = False

    def from_family(self, folder: str | None) -> "Preset":
        """The preset with "{family}" filled in.

        Args:
            folder: of pre-training runs, whose LM-adapted models are then taken instead of those
                that come with the package (but of sizes without `adaptation`); None: the preset's
                own, for earlier stages only.

        Raises:
            UserError: there is no such folder.
        """
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"There is no folder {folder}; --family names one of pre-training.")

        def filled(name: str | None) -> str | None:
            return None if name is None else name.replace("{family}", folder or self.family)

        sizes = []
        for size in self.sizes:
            adaptation = filled(size.adaptation)
            model = size.model
            if folder is not None and adaptation is not None:
                model = f"{adaptation}/best"
            sizes.append(
                dataclasses.replace(
                    size, model=model, corrupted=filled(size.corrupted), adaptation=adaptation
                )
            )
        return dataclasses.replace(self, sizes=tuple(sizes))


# ------------------------------------------------------------------------------------ the paper's

_FREE_TEXT = ("super_glue/record", "super_glue/wsc.fixed", "squad")


def paper_task(name: str) -> TaskOptions:
    """The lengths of one of the paper's tasks.

    Args:
        name: as `get_task` knows it.
    """
    return TaskOptions(
        name=name,
        max_input_length=512,
        # The released demos have 8, which is too short for entities, nouns and spans.
        max_target_length=32 if name in _FREE_TEXT else 8,
    )


SUPER_GLUE = tuple(
    f"super_glue/{name}"
    for name in ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc.fixed")
)

PAPER = Preset(
    name="paper",
    about="T5 1.1 Small to XXL, SuperGLUE",
    sizes=tuple(
        Size(
            label,
            model=f"google/t5-{label.lower()}-lm-adapt",
            corrupted=f"google/t5-v1_1-{label.lower()}",
            adaptation=f"{{family}}/t5-v1_1-{label.lower()}-lm",
            changes=changes,
        )
        for label, changes in (
            ("Small", {}),
            ("Base", {}),
            # So a chip of 16 GB holds prompt tuning's batch of 32 (XXL: eight), as `plan` counts.
            ("Large", {"train.remat": "full"}),
            ("XL", {"train.remat": "full"}),
            ("XXL", {"train.remat": "full"}),
        )
    ),
    tasks=tuple(map(paper_task, SUPER_GLUE)),
    # Section 3; dropout, z-loss and the steps between evaluations are the released code's.
    recipe=RunConfig(
        model=ModelOptions(dropout_rate=0.1),
        prompt=PromptOptions(length=100, init="class_labels"),
        optimizer=OptimizerOptions(name="lester_adafactor", learning_rate=0.3),
        train=TrainOptions(steps=30_000, batch_size=32, evaluate_every=1_000, z_loss=1e-4),
    ),
    # Section 3.1: 2^16 tokens a batch, which are 128 inputs of 512; a million for many tasks.
    model_tuning={
        "train.method": "model_tuning",
        "train.batch_size": 128,
        "optimizer.name": "adafactor",
        "optimizer.learning_rate": 0.001,
        "optimizer.weight_decay": 0.0,
    },
    multitask=("definite_pronoun_resolution",),
    multitask_tuning={"train.batch_size": 2048, "task.task_prefix": True},
    shots=32,
    family="runs",
    is_the_papers=True,
)

# ---------------------------------------------------------------------------------- the small ones

SMALL_TASKS = tuple(
    TaskOptions(name=name, max_input_length=80, max_target_length=8)
    for name in ("movie_reviews", "sms_spam")
)
"""Tasks that come with the package."""

_FAMILY = (
    *(
        Size(
            name,
            model=name,
            corrupted=f"{{family}}/{name}/best",
            adaptation=f"{{family}}/{name}-lm",
        )
        for name in ("t5-nano", "t5-micro")
    ),
    # Grown from the LM-adapted t5-micro, so it never was without LM adaptation.
    Size("t5-mini", model="t5-mini"),
)
_SMALL_MODEL_TUNING: Changes = {
    "train.method": "model_tuning",
    "optimizer.name": "adafactor",
    "optimizer.learning_rate": 0.001,
    "optimizer.weight_decay": 0.0,
}

SMALL = Preset(
    name="small",
    about="T5s of this project and SmolLM2, tasks that come with the package",
    sizes=_FAMILY,
    tasks=SMALL_TASKS,
    recipe=RunConfig(
        prompt=PromptOptions(length=20, init="class_labels"),
        # So short a run has no time to settle from a constant rate.
        optimizer=OptimizerOptions(learning_rate=0.3, schedule="linear"),
        train=TrainOptions(
            steps=300,
            batch_size=32,
            evaluate_every=50,
            evaluate_batch_size=64,
            max_shapes=3,
            checkpoint_minutes=2.0,
            # By the paper's loss models of this size stop at the commonest label.
            loss="labels",
        ),
    ),
    model_tuning=_SMALL_MODEL_TUNING,
    # As configs/quickstart.py.
    others=(
        Size(
            "smollm2-135m",
            model="smollm2-135m",
            changes={
                "optimizer.learning_rate": 0.1,
                "train.loss": "tokens",
                "train.steps": 120,
                "train.batch_size": 16,
                "train.evaluate_every": 60,
                "train.evaluate_examples": 256,
                "train.evaluate_batch_size": 32,
                "train.max_shapes": 6,
                "task.max_input_length": 60,
                "task.max_target_length": 4,
            },
        ),
    ),
)

SMOKE = dataclasses.replace(
    SMALL,
    name="smoke",
    about="the smallest T5 of this project: shows that it runs, not what is true",
    sizes=_FAMILY[:1],
    others=(),
    seeds=(0, 1),
    recipe=dataclasses.replace(
        SMALL.recipe,
        train=dataclasses.replace(
            SMALL.recipe.train, steps=40, evaluate_every=20, evaluate_examples=128, max_shapes=2
        ),
    ),
)

PRESETS = {preset.name: preset for preset in (PAPER, SMALL, SMOKE)}
