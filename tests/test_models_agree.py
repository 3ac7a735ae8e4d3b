"""The two models of each entry of the zoo are one model."""

import numpy as np
import pytest
from example_models import ENTRIES, model
from example_models.chains import SCANS

# The log-probability of an impossible value is the logarithm of the smallest step of
# float64 in one host, -36.04; that of the smallest number, or -inf, in the other.
IMPOSSIBLE = -36.0
QUICK = {"xla_backend_optimization_level": 0}
pytestmark = pytest.mark.slow  # XLA compiles each model for seconds
TWINS = [e for e in ENTRIES.values() if len(e.hosts) == 2]


@pytest.fixture(autouse=True)
def double():
    """Both hosts compute in float64, and draw in it by default."""
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def converted(entry, convert):
    return [convert(a) if isinstance(a, np.ndarray) else a for a in entry.data()]


def drawn_in_pyro(entry):
    """A prior draw: values of latent sites and of subsamples, log-densities by site."""
    import pyro
    import torch
    from pyro.poutine.util import site_is_subsample as is_plate

    pyro.clear_param_store()
    torch.manual_seed(1)
    program = pyro.poutine.trace(model("pyro", entry.name))
    trace = program.get_trace(*converted(entry, torch.tensor))
    trace.compute_log_prob()
    sites = {k: s for k, s in trace.nodes.items() if s["type"] == "sample"}
    values, scores = {}, {}
    for name, site in sites.items():
        fn = site["fn"]
        whole = is_plate(site) and fn.subsample_size in (None, fn.size)
        if not (site["is_observed"] or whole):
            values[name] = site["value"].numpy()
        if not (is_plate(site) or site["infer"].get("_deterministic")):
            scores[name] = floored(np, site["log_prob"].numpy(), site)
    return values, scores


def scored_in_numpyro(entry, values):
    """Log-densities by site, of the model whose sites take these values."""
    import jax
    import jax.numpy as jnp
    from numpyro import handlers

    program = handlers.seed(model("numpyro", entry.name), jax.random.key(0))
    args = converted(entry, jnp.asarray)
    shapes = {}

    def shaped():
        trace = handlers.trace(program).get_trace(*args)
        shapes.update({k: s["value"] for k, s in trace.items()})

    def scored(values):
        trace = handlers.trace(handlers.substitute(program, values)).get_trace(*args)
        sites = {k: s for k, s in trace.items() if s["type"] == "sample"}
        return {
            k: floored(jnp, s["fn"].log_prob(s["value"]) * scale_of(s), s)
            for k, s in sites.items()
        }

    jax.eval_shape(shaped)
    assert {k: v.shape for k, v in values.items()} == {
        k: shapes[k].shape for k in values
    }
    # A bit is a float in Pyro, an integer in NumPyro.
    values = {k: np.asarray(v, shapes[k].dtype) for k, v in values.items()}
    return jax.device_get(jax.jit(scored, compiler_options=QUICK)(values))


def scale_of(site):
    return 1.0 if site["scale"] is None else site["scale"]


def floored(xp, log_prob, site):
    """A site's score, without how far each host puts the impossible below zero."""
    if site["fn"].support.is_discrete:
        log_prob = xp.maximum(log_prob, IMPOSSIBLE * scale_of(site))
    return log_prob.sum()


@pytest.mark.parametrize("entry", TWINS, ids=lambda e: e.name)
def test_twins_have_the_same_sites_and_densities(entry):
    values, pyros = drawn_in_pyro(entry)
    numpyros = scored_in_numpyro(entry, values)
    assert set(pyros) == set(numpyros)
    names = sorted(pyros)
    np.testing.assert_allclose(
        [numpyros[k] for k in names], [pyros[k] for k in names], rtol=1e-8, atol=1e-8,
        err_msg=", ".join(names),
    )  # fmt: skip


def stacked(by_site):
    """Values or scores of a loop, x_0, x_1, ..., by the names of its scan: x."""
    series = {}
    for name, value in by_site.items():
        stem, _, step = name.rpartition("_")
        if step.isdigit():
            series.setdefault(stem, []).append(value)
        else:
            series[name] = value
    return {k: np.stack(v) if isinstance(v, list) else v for k, v in series.items()}


@pytest.mark.parametrize(("scan", "loop"), SCANS.items(), ids=SCANS)
def test_scans_have_the_densities_of_their_loops(scan, loop):
    values, scores = drawn_in_pyro(ENTRIES[loop])
    expected = {k: np.sum(v) for k, v in stacked(scores).items()}
    scanned = scored_in_numpyro(ENTRIES[scan], stacked(values))
    assert scanned == pytest.approx(expected, rel=1e-8, abs=1e-8)
