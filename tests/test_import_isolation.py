"""Importing one package never imports the other's framework, nor changes its own."""

import subprocess
import sys

import pytest


def run(code):
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("pyro_concrete", ["jax", "jaxlib", "numpyro", "quax", "numpyro_concrete"]),
        ("numpyro_concrete", ["torch", "pyro", "pyro_concrete"]),
    ],
)
def test_the_other_framework_is_not_imported(package, foreign):
    names = run(f"import sys, {package}; print(*sys.modules)").split()
    assert package in names
    assert not {name.partition(".")[0] for name in names} & set(foreign)


def test_pyro_is_not_reconfigured():
    look = (
        "import torch, pyro; d = torch.distributions.Distribution; "
        "state = lambda: (d._Distribution__default_validate_args "
        "if hasattr(d, '_Distribution__default_validate_args') else d._validate_args, "
        "torch.get_default_dtype(), pyro.poutine.runtime._PYRO_STACK == []); "
        "before = state(); import pyro_concrete; print(state() == before)"
    )
    assert run(look) == "True"


def test_numpyro_is_not_reconfigured():
    look = (
        "import jax, numpyro; d = numpyro.distributions.Distribution; "
        "state = lambda: (d._validate_args, jax.config.jax_enable_x64, "
        "jax.config.jax_numpy_rank_promotion, numpyro.primitives._PYRO_STACK == []); "
        "before = state(); import numpyro_concrete; print(state() == before)"
    )
    assert run(look) == "True"
