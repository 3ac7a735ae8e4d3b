"""The object of a dotted path, which the site reads docstrings from."""

import importlib


def located(path):
    """The object of a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(located(module), name)
