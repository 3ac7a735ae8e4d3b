"""Which discrete sites of a model to enumerate, and which to relax.

A backend describes the sites of a model (`sites`). From their shapes follows what exact
enumeration would cost (`contraction`, `enumeration_cost`); `selection` relaxes sites
until the rest fits a budget, and `plan` presents the result.
"""
