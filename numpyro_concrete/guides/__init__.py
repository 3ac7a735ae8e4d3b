"""Guides for relaxed models.

Counterpart: ``pyro_concrete.guides``.
"""

from numpyro_concrete.guides.auto_concrete import AutoConcrete

__all__ = ["AutoConcrete"]
