"""All experiments by name, figures first, in the paper's order, then what is beyond it."""

from softprompt_jax.reproduction import (
    claims,
    data_tables,
    family,
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
    experiment.name: experiment
    for experiment in (
        fig1.EXPERIMENT,
        fig2.EXPERIMENT,
        fig3a.EXPERIMENT,
        fig3b.EXPERIMENT,
        fig3c.EXPERIMENT,
        fig3d.EXPERIMENT,
        fig4.EXPERIMENT,
        tab1.EXPERIMENT,
        tab2.EXPERIMENT,
        tab3.EXPERIMENT,
        tab4.EXPERIMENT,
        tab5.EXPERIMENT,
        tab6.EXPERIMENT,
        *data_tables.EXPERIMENTS,
        sec7.EXPERIMENT,
        claims.EXPERIMENT,
        parameterizations.EXPERIMENT,
        family.EXPERIMENT,
    )
}
