"""The experiments of the paper: cells of its tables, trained and evaluated.

`python -m benchmarks.paper --help` shows the options. A cell is a network of the
paper's Tables 1 and 2 or its Figure 4, an estimator and a number of particles.
`cells` names the networks, `datasets` reads the images, `on_numpyro` trains and
evaluates, `checkpoints` saves the state of a run, so that it can be resumed.
"""
