"""`python -m softprompt_jax.reproduce`: a figure or table of Lester et al. 2021, made again.

    python -m softprompt_jax.reproduce fig3a --preset smoke
    python -m softprompt_jax.reproduce all --preset small --workers 2
    python -m softprompt_jax.reproduce report --preset small

Writes `<preset>/NAME.json`, `.md` and `.png` in --workdir. The runs are in `runs` there: stopped at
any moment, the same command goes on; a finished run is never made twice, not even for another
figure. `all` makes everything and the page, `report` the page alone (`<preset>/report.html`).
Needs matplotlib (`pip install 'softprompt-jax[plots]'`), and for --preset paper TPUs, the hub's
models and `pip install 'softprompt-jax[tfds]'`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from softprompt_jax.command_line import Parser, run_command
from softprompt_jax.errors import UserError
from softprompt_jax.progress import tell
from softprompt_jax.reproduction.catalogue import EXPERIMENTS
from softprompt_jax.reproduction.experiment import Context, Experiment, command_line
from softprompt_jax.reproduction.page import write_page
from softprompt_jax.reproduction.presets import PRESETS
from softprompt_jax.reproduction.results import as_markdown

EVERYTHING, PAGE = "all", "report"


def main(arguments: Sequence[str]) -> int:
    """Runs what is asked for, and prints its table."""
    parser = Parser("softprompt_jax.reproduce", __doc__)
    told = "; ".join(f"{name}: {each.title}" for name, each in EXPERIMENTS.items())
    told = told.replace("%", "%%")  # argparse fills in what a % stands before
    parser.add_argument(
        "name",
        choices=[*EXPERIMENTS, EVERYTHING, PAGE],
        metavar="NAME",
        help=f"{told}; {EVERYTHING}; {PAGE}",
    )
    about = "; ".join(
        f"{name}: {preset.about}; {preset.recipe.train.steps:,} steps"
        for name, preset in PRESETS.items()
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="small", help=f"{about}; default: small"
    )
    parser.add_argument(
        "--workdir",
        default="runs/reproduction",
        help="folder of the runs and of what is made of them; default: runs/reproduction",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share the runs, on CPU; default: 1"
    )
    parser.add_argument(
        "--family",
        help="folder of pre-training runs (NAME/best, NAME-lm/best, NAME-lm/kept/STEP) to take "
        "the T5s from (but t5-mini, which is always the package's); default: those that come with "
        "the package or the hub, and for their earlier stages runs/pretraining (paper: runs)",
    )
    options = parser.parse_args(arguments)
    if options.workers < 1:
        raise UserError(f"--workers is {options.workers}; it must be at least 1.")
    preset = PRESETS[options.preset].from_family(options.family)
    folder = Path(options.workdir)

    def run(experiment: Experiment) -> None:
        command = command_line(experiment.name, preset.name, options.workdir, options.family)
        context = Context(preset, folder, options.workers, tell, command)
        print(as_markdown(experiment.run(context)), flush=True)

    if options.name not in (EVERYTHING, PAGE):
        run(EXPERIMENTS[options.name])
        return 0
    left_out = []
    if options.name == EVERYTHING:
        for name, experiment in EXPERIMENTS.items():
            if experiment.needs_the_papers and not preset.is_the_papers:
                tell(f"{name} is for --preset paper, whose data it needs.")
                continue
            try:
                run(experiment)
            except UserError as error:
                left_out.append(name)
                tell(f"{name} is left out: {error}")
    print(f"page: {write_page(folder / preset.name)}")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
