"""All experiments by name, figures first, in the paper's order, then what is beyond it."""

from softprompt_jax.reproduction import (
    fig1,
    fig2,
    fig3a,
    fig3b,
    fig3c,
    fig3d,
    fig4,
    parameterizations,
    sec7,
    tab1,
    tab2,
    tab3,
    tab4,
    tab5,
    tab6,
)
from softprompt_jax.reproduction.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        fig1,
        fig2,
        fig3a,
        fig3b,
        fig3c,
        fig3d,
        fig4,
        tab1,
        tab2,
        tab3,
        tab4,
        tab5,
        tab6,
        sec7,
        parameterizations,
    )
}
