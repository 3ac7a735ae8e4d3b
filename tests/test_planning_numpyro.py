"""plan_sites in NumPyro: scans, and supports that its enumeration takes for others."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import TraceEnum_ELBO
from scipy import special, stats

PROBS = jnp.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]])


@pytest.fixture
def package():
    from backends import get_backend

    return get_backend("numpyro").package


def near(name, loc, size=()):
    numpyro.sample(name, dist.Normal(loc, 1.0), obs=jnp.zeros(size))


DATA = jnp.linspace(-1.0, 1.0, 4)


def scanned():
    a = numpyro.sample("a", dist.Categorical(PROBS[0]))

    def step(z, y):
        z = numpyro.sample("z", dist.Categorical(PROBS[z]))
        numpyro.sample("x", dist.Normal(1.0 * z + a, 1.0), obs=y)
        return z, None

    scan(step, jnp.array(0), DATA)


def beside():
    a = numpyro.sample("a", dist.Categorical(PROBS[0]))

    def step(carry, y):
        numpyro.sample("x", dist.Normal(1.0 * a, 1.0), obs=y)
        return carry, None

    scan(step, 0.0, DATA)


def evidence_of_beside():
    scores = stats.norm.logpdf(np.asarray(DATA)[:, None], np.arange(3)).sum(0)
    return special.logsumexp(np.log(np.asarray(PROBS[0])) + scores)


def evidence_of_scanned():
    total = 0.0
    for a, weight in enumerate(np.asarray(PROBS[0])):
        message = np.eye(3)[0]
        for y in np.asarray(DATA):
            message = message @ np.asarray(PROBS)
            message = message * stats.norm.pdf(y, np.arange(3) + a)
        total += weight * message.sum()
    return np.log(total)


SCANS = {
    "discrete sites inside": (scanned, evidence_of_scanned, ("a", "z")),
    "only data inside": (beside, evidence_of_beside, ("a",)),
}


@pytest.mark.parametrize("case", SCANS)
def test_a_model_with_a_scan_is_relaxed(package, case):
    model, evidence, sites = SCANS[case]
    # The host does not refuse: it is wrong, which is why the plan refuses.
    elbo = TraceEnum_ELBO(max_plate_nesting=0)
    loss = elbo.loss(jax.random.key(0), {}, config_enumerate(model), lambda: None)
    assert abs(float(loss) + evidence()) > 1
    planned = package.plan_sites(model)
    assert planned.relaxed == sites
    reasons = {row.name: row.reason for row in planned.decisions}
    assert "beside a scan" in reasons["a"]
    assert "z" not in reasons or "inside of scan" in reasons["z"]
    seeded = numpyro.handlers.seed(planned.apply(model, 0.5), 0)
    trace = numpyro.handlers.trace(seeded).get_trace()
    assert {f"{name}_relaxed" for name in sites} <= trace.keys()


def test_values_that_are_no_range_are_relaxed(package):
    def model():
        z = numpyro.sample("z", dist.DiscreteUniform(2, 4))
        e = numpyro.sample("e", package.OneHotCategorical(probs=PROBS[0]))
        u = numpyro.sample("u", dist.DiscreteUniform(0, 4))
        near("x", 1.0 * z + e.sum() + u)

    planned = package.plan_sites(model)
    assert (planned.relaxed, planned.enumerated) == (("z", "e"), ("u",))
    assert "0, 1, ..." in planned.decisions[0].reason


def test_the_largest_array_is_the_predicted_one(package):
    def model():
        a = numpyro.sample("a", dist.Categorical(PROBS[0]))
        b = numpyro.sample("b", dist.Binomial(4, 0.3))
        with numpyro.plate("rows", 20):
            z = numpyro.sample("z", dist.Categorical(PROBS[a]))
            near("x", 1.0 * a + b + z, 20)

    planned = package.plan_sites(model)
    assert planned.cost_after == 3 * 5 * 3 * 20
    elbo = TraceEnum_ELBO(max_plate_nesting=1)

    def loss():
        return elbo.loss(jax.random.key(0), {}, config_enumerate(model), lambda: None)

    assert largest(jax.make_jaxpr(loss)().jaxpr) == planned.cost_after


def largest(jaxpr):
    """The most elements of any array of a traced program."""
    inner = [
        x for step in jaxpr.eqns for x in jax.tree.leaves(list(step.params.values()))
    ]
    inner = [getattr(x, "jaxpr", x) for x in inner if hasattr(x, "jaxpr")]
    own = [x.aval.size for step in jaxpr.eqns for x in step.outvars]
    return max([*own, *map(largest, inner)], default=0)


def test_components_have_their_own_scales(package):
    def model():
        with numpyro.plate("rows", 50, subsample_size=5):
            z = numpyro.sample("z", dist.Categorical(PROBS[0]))
            near("x", 1.0 * z, 5)
        a = numpyro.sample("a", dist.Categorical(PROBS[0]))
        near("y", 1.0 * a)

    assert package.plan_sites(model).enumerated == ("z", "a")


def test_nothing_is_computed(package):
    def model():
        z = numpyro.sample("z", dist.Categorical(PROBS[0]))
        jax.debug.callback(lambda x: pytest.fail(f"computed {x}"), z)

    package.plan_sites(model)
