"""The figures and tables of Lester et al. 2021, each from one grid of runs or one formula."""
