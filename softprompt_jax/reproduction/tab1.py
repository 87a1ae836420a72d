"""Table 1: trained on SQuAD, scored on question answering of other domains."""

from softprompt_jax.reproduction.domain_shift import METHOD, SCORED_ON, compare, points
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import grouped
from softprompt_jax.reproduction.published import TABLE_1
from softprompt_jax.reproduction.results import Result
from softprompt_jax.tasks.question_answering import OUT_OF_DOMAIN

SOURCE = "squad"
OTHERS = tuple(f"mrqa/{name}" for name in OUT_OF_DOMAIN)


def compute(context: Context) -> Result:
    """Tunes on SQuAD both ways."""
    return compare(
        context,
        points(context.preset, SOURCE, OTHERS),
        metrics=("squad_f1",),
        printed=lambda trained_on, task, metric: TABLE_1.get(task),
        source="table 1",
        in_domain=True,
    )


EXPERIMENT = Experiment(
    name="tab1",
    title="Question answering in other domains",
    item="table 1",
    finding="Prompt tuning is better out of domain where it is far (TextbookQA by 12.5 points), "
    "and worse on DuoRC and DROP.",
    compute=compute,
    draw=grouped(SCORED_ON, METHOD),
    needs_the_papers=True,
)
