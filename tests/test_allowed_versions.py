"""The constraints by which `make test-oldest` and `make test-newest` install."""

import pytest
from allowed_versions import constraints

PROJECT = {
    "project": {
        "dependencies": ["jaxtyping>=0.3.3", "numpy"],
        "optional-dependencies": {
            "pyro": ["torch>=2.5", "pyro-ppl>=1.9.1"],
            "numpyro": ["jax>=0.10,<0.12", "numpyro>=0.21"],
            "plots": ["matplotlib"],
        },
    },
    "dependency-groups": {"test": ["pytest"], "docs": ["sphinx-design"]},
}
PINS = """
# Pins.
jax==0.10.2
jaxlib==0.10.2
jaxtyping==0.3.11
matplotlib==3.11.2
numpy==2.4.6
numpyro==0.22.0
pip==26.3
pyro-ppl==1.9.2
pytest==9.2.0
sphinx_design==0.8.0
torch==2.13.0
""".splitlines()
TOOLS = {"matplotlib==3.11.2", "pip==26.3", "pytest==9.2.0", "sphinx_design==0.8.0"}
OTHER = {
    "pyro": {"jax==0.10.2", "numpyro==0.22.0"},
    "numpyro": {"torch==2.13.0", "pyro-ppl==1.9.2"},
}


@pytest.mark.parametrize("chosen", OTHER)
def test_newest_versions_are_not_held_back(chosen):
    lines = constraints("newest", chosen, PROJECT, PINS)
    assert len(lines) == len(set(lines))
    assert set(lines) == TOOLS | OTHER[chosen]


@pytest.mark.parametrize(
    ("chosen", "bounds"),
    [
        ("pyro", {"torch==2.5", "pyro-ppl==1.9.1"}),
        ("numpyro", {"jax==0.10", "numpyro==0.21"}),
    ],
)
def test_oldest_versions_are_the_lower_bounds(chosen, bounds):
    lines = constraints("oldest", chosen, PROJECT, PINS)
    assert set(lines) == TOOLS | OTHER[chosen] | bounds | {"jaxtyping==0.3.3"}


def test_an_age_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="'older'"):
        constraints("older", "pyro", PROJECT, PINS)
