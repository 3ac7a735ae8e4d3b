"""Questions about numbers, each answered by a script: `python -m benchmarks --list`.

A question is a module here with a function `run(backends, out)`. What it needs from
each backend is in a module of the same name in `on_pyro` and `on_numpyro`, so that the
questions for one backend run without the other's framework.
"""
