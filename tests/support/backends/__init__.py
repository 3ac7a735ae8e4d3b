"""The only adaptor between the suite and the two hosts.

A backend makes arrays of its host from NumPy and back, differentiates, draws and scores
samples, and runs small programs. Whatever a test needs of one host alone is in a test
file of that host.
"""

import contextlib
import functools
import warnings
from importlib import import_module


@functools.cache
def get_backend(name):
    """Return the backend of this name; its host is imported at the first call."""
    family = {"pyro": "PyroBackend", "numpyro": "NumPyroBackend"}[name]
    return getattr(import_module(f"backends.on_{name}"), family)()


@contextlib.contextmanager
def ignoring_jit_warnings():
    """Silence what torch.jit.trace says of itself: it is deprecated and cautious."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
