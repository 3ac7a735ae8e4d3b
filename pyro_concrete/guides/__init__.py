"""Guides for relaxed models.

Counterpart: ``numpyro_concrete.guides``.
"""

from pyro_concrete.guides.auto_concrete import AutoConcrete

__all__ = ["AutoConcrete"]
