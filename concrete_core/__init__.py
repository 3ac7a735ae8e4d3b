"""What both packages share: the parts that need neither PyTorch nor JAX.

The costs of enumeration and the choice of what to enumerate, reports and tables, the
tables of a quadrature, and the bibliography. `pyro_concrete` and `numpyro_concrete`
present what users need of it under their own names.
"""
