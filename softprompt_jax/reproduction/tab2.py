"""Table 2: trained on one of the paraphrase tasks QQP and MRPC, scored on the other."""

from softprompt_jax.reproduction.domain_shift import METHOD, SCORED_ON, compare, points
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import grouped
from softprompt_jax.reproduction.published import TABLE_2
from softprompt_jax.reproduction.results import Result


def compute(context: Context) -> Result:
    """Tunes on each of them both ways."""
    found = [
        point for source, other in TABLE_2 for point in points(context.preset, source, (other,))
    ]
    return compare(
        context,
        found,
        metrics=("accuracy", "f1"),
        printed=lambda trained_on, task, metric: TABLE_2[trained_on, task][metric],
        source="table 2",
        in_domain=False,
    )


EXPERIMENT = Experiment(
    name="tab2",
    title="From one paraphrase task to the other",
    item="table 2",
    finding="From QQP to MRPC prompt tuning is 3 points better than model tuning; from MRPC to QQP "
    "both are about equal.",
    compute=compute,
    draw=grouped(SCORED_ON, METHOD),
    needs_the_papers=True,
)
