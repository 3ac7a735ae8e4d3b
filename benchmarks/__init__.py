"""Questions about numbers, each answered by a script: `python -m benchmarks --list`.

A question is a module here with a function `run(backends, out)`. What it has to ask of
each host lies in a module of the same name in `on_pyro` and `on_numpyro`, so that one
host's questions run without the other's framework.
"""
