"""Random programs: a model is put together at random, relaxed and compared.

`operations.py` and `families.py` list what a program is made of, one line each.
`program.py` says what a program is, `generate.py` puts one together, `discrete.py` runs
it at every joint value of its sites, `promises.py` says what its relaxation owes to
that, `judge.py` compares the two, and `shrink.py` makes failures small. `hosts.py` is
the adaptor of each backend.

`python -m random_programs pyro --programs 2000 --seed 0` runs many: see `make fuzz`.
"""
