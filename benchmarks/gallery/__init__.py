"""Which way of training ends with the best discrete model? A gallery of real models.

`data.py` holds the data sets, `entries.py` the list of models, `on_numpyro/` and
`on_pyro/` the models and how they are trained, `methods.py` the ways of training, and
`summary.py` what is made of the results. `python -m benchmarks.gallery --help`.
"""
