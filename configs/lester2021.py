"""The recipe of Lester et al. 2021 for one task and one size of T5.

    python -m softprompt_jax.train --config configs/lester2021.py:super_glue/boolq:base
    python -m softprompt_jax.train --config configs/lester2021.py:squad:xl:model_tuning

Task: the eight of SuperGLUE (super_glue/boolq, cb, copa, multirc, record, rte, wic, wsc.fixed),
those of GLUE (glue/cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte), and squad, whose prompt is also
scored on the six sets of MRQA. Size: small, base, large, xl, xxl, LM-adapted (with `--model.name
google/t5-v1_1-base` and so on, not adapted). Method: prompt_tuning, or model_tuning, the baseline
of section 3.1.

What all have in common is `PAPER` in softprompt_jax/reproduction/presets.py: a prompt of 100 tokens
from class labels (of squad, which has none, from sampled vocabulary), Adafactor at a constant 0.3,
30,000 steps of 32 examples, the checkpoint with the best validation score; dropout and z-loss are
the released code's. The paper does not tell lengths: inputs have 512 tokens, targets 8, or 32 where
they are free text. It takes the mean of three seeds: `--seed 0`, 1 and 2, each with a `--workdir`
of its own.

In bfloat16 the weights take 0.15, 0.5, 1.6, 5.7 and 22 GB, small to xxl. The layout is `auto`: pmap
where a chip holds them with room to spare, else a mesh over all chips; so xxl takes at least two
chips of 16 GB. From large on nearly all is computed anew in the backward pass (remat full): so a
chip of 16 GB holds prompt tuning's step up to xl, and eight that of xxl (the README's table of
`plan`). Where a step does not fit, `python -m softprompt_jax.plan` with the same --config and, say,
`--topology v5e:2x4` tells which change makes it fit. The paper had 4 chips of TPU v2 for small and
base, 16 of v3 for the others.

None of this was run: neither the models nor the data were at hand, so no score stands here.
"""

from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.reproduction.presets import PAPER, SUPER_GLUE, paper_task
from softprompt_jax.tasks.question_answering import OUT_OF_DOMAIN

GLUE = tuple(
    f"glue/{name}" for name in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
)
SCORED_TOO = {
    "glue/mnli": ("glue/mnli_mismatched",),
    "glue/mrpc": ("glue/qqp",),  # table 2
    "glue/qqp": ("glue/mrpc",),
    "squad": tuple(f"mrqa/{name}" for name in OUT_OF_DOMAIN),  # table 1
}
TASKS = (*SUPER_GLUE, *GLUE, "squad")
SIZES = {size.label.lower(): size for size in PAPER.sizes}
METHODS = {"prompt_tuning": {}, "model_tuning": PAPER.model_tuning}


def config(
    task: str = "super_glue/boolq", size: str = "base", method: str = "prompt_tuning"
) -> RunConfig:
    """The recipe with what differs filled in."""
    for given, known in ((task, TASKS), (size, SIZES), (method, METHODS)):
        if given not in known:
            raise UserError(f"The paper's recipe has no {given!r}; choose of {', '.join(known)}.")
    return PAPER.recipe.replaced(
        {
            **SIZES[size].changes,
            **METHODS[method],
            "model.name": SIZES[size].model,
            "task": paper_task(task),
            # Questions about a text have no labels; the paper does not tell how it began there.
            "prompt.init": "sampled_vocab" if task == "squad" else PAPER.recipe.prompt.init,
            "evaluate_on": SCORED_TOO.get(task, ()),
            "workdir": f"runs/lester2021/{task.replace('/', '_')}-{size}-{method}",
        },
    )
