"""What both packages share: the parts that need neither PyTorch nor JAX.

The planner of enumeration, the formulas of temperature schedules, reports and figures
on NumPy arrays, the tables of a quadrature, and the bibliography. `pyro_concrete` and
`numpyro_concrete` present what users need of it under their own names.
"""

# The only place that states it for the packages; tests compare what else does.
__version__ = "0.1.0"
