"""Constants of the KL divergence of two Concretes, computed once a process by NumPy.

`log_survival` evaluates the one function that has no closed form, `tables` stores it as
polynomials that a backend can evaluate and differentiate, and `rules` has the nodes and
weights of the quadratures. ``docs/kl.md`` derives what they are for.
"""
