"""Oracles: the papers' formulas in NumPy, SciPy and mpmath, slow and obvious.

Nothing here imports a package under test or its framework, so an expected value
never comes from the code that it judges. Arrays are float64 and the last axis
holds the classes; `tests/test_reference.py` tests the oracles themselves.
"""
