"""Discrete models as people write them, for every check of relax: see `entry`.

A new model is an entry in one of the themes, and a function of its name in the file of
the same theme in `on_pyro` and `on_numpyro`.
"""

from importlib import import_module

from example_models import chains, counts, mixtures, networks

THEMES = {
    "mixtures": mixtures,
    "chains": chains,
    "counts": counts,
    "networks": networks,
}
ENTRIES = {e.name: e for theme in THEMES.values() for e in theme.ENTRIES}


def model(host, name):
    """Return the model of an entry in one host."""
    (theme,) = (t for t, module in THEMES.items() if ENTRIES[name] in module.ENTRIES)
    return getattr(import_module(f"example_models.on_{host}.{theme}"), name)


def guides(host):
    """Return the guides that fit any model of the zoo, in one host."""
    return import_module(f"example_models.on_{host}.guides")
