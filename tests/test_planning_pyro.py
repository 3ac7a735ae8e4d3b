"""plan_sites in Pyro: what it predicts is what TraceEnum_ELBO makes."""

import math

import example_models
import pyro
import pyro.distributions as dist
import pytest
import torch
from example_models import ENTRIES
from pyro.infer import TraceEnum_ELBO, config_enumerate, traceenum_elbo
from pyro.infer.autoguide import AutoNormal
from pyro.ops.contract import contract_tensor_tree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Each model has the plates that it needs, and no tensor larger than its enumeration.
PROBS = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.5, 0.2, 0.3]])


def near(name, loc, size=1):
    pyro.sample(name, dist.Normal(loc, 1.0), obs=torch.linspace(-1, 1, size))


def independent():
    with pyro.plate("rows", 50):
        z = pyro.sample("z", dist.Categorical(PROBS[0]))
        near("x", 1.0 * z, 50)


def parents():
    a = pyro.sample("a", dist.Categorical(PROBS[0]))
    b = pyro.sample("b", dist.Binomial(4, 0.3))
    with pyro.plate("rows", 20):
        near("x", 1.0 * a + b, 20)


def chain():
    z = torch.tensor(0)
    for t in pyro.markov(range(12)):
        z = pyro.sample(f"z_{t}", dist.Categorical(PROBS[z]))
        with pyro.plate(f"rows_{t}", 7):
            near(f"x_{t}", 1.0 * z, 7)


def nested():
    rows, columns = pyro.plate("rows", 6, dim=-1), pyro.plate("columns", 5, dim=-2)
    a = pyro.sample("a", dist.Categorical(PROBS[0]))
    with columns:
        b = pyro.sample("b", dist.Categorical(PROBS[a]))
        with rows:
            c = pyro.sample("c", dist.Categorical(PROBS[b]))
            near("x", 1.0 * a + b + c, 6)


def wheel():
    zs = [pyro.sample(f"z_{i}", dist.Categorical(PROBS[0])) for i in range(6)]
    for i in range(5):
        near(f"x_{i}", (1.0 * zs[i] + zs[(i + 1) % 5]).unsqueeze(-1).sum(-1))
        near(f"y_{i}", (1.0 * zs[i] * zs[5]).unsqueeze(-1).sum(-1))


def sequential():
    a = pyro.sample("a", dist.Categorical(PROBS[0]))
    for i in pyro.plate("rows", 4):
        z = pyro.sample(f"z_{i}", dist.Categorical(PROBS[a]))
        near(f"x_{i}", 1.0 * z + a)


class Largest(TorchDispatchMode):
    """The most elements in the memory of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                held = x.untyped_storage().nbytes() // x.element_size()
                self.elements = max(self.elements, held)
        return result


def largest_tensor(model, guide, *args, nesting=2):
    """What TraceEnum_ELBO makes: the log-probabilities, and all of the contraction."""
    largest = Largest()

    def spied(factors, *rest, **options):
        for factor in (x for terms in factors.values() for x in terms):
            largest.elements = max(largest.elements, factor.numel())
        with largest:
            return contract_tensor_tree(factors, *rest, **options)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(traceenum_elbo, "contract_tensor_tree", spied)
        TraceEnum_ELBO(max_plate_nesting=nesting).loss(model, guide, *args)
    return largest.elements


MODELS = (independent, parents, chain, nested, wheel, sequential)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_the_largest_tensor_is_the_predicted_one(backend_pyro, model):
    planned = backend_pyro.package.plan_sites(model)
    assert planned.relaxed == ()
    made = largest_tensor(config_enumerate(model), lambda: None)
    assert planned.cost_after == made
    with Largest() as largest, torch.no_grad():  # and nothing else is larger
        TraceEnum_ELBO(max_plate_nesting=2).loss(config_enumerate(model), lambda: None)
    assert largest.elements == made


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if "pyro" in e.hosts])
def test_a_test_model_costs_what_is_predicted(backend_pyro, name):
    model, entry = example_models.model("pyro", name), ENTRIES[name]
    with backend_pyro.double_precision():
        data = backend_pyro.arguments(entry.data())
        planned = backend_pyro.package.plan_sites(model, args=data)
        if planned.relaxed:  # not for its size
            assert planned.cost_before == math.inf
            return
        pyro.clear_param_store()
        guide = AutoNormal(pyro.poutine.block(model, hide=list(planned.sites)))
        hybrid = planned.apply(model)
        assert largest_tensor(hybrid, guide, *data, nesting=3) == planned.cost_after


@pytest.fixture
def backend_pyro():
    from backends import get_backend

    return get_backend("pyro")


def test_planning_leaves_params_and_seeds_alone(backend_pyro):
    pyro.clear_param_store()
    kept = pyro.param("kept", torch.tensor(1.0))

    def model():
        loc = pyro.param("kept", torch.tensor(5.0)) + pyro.param("new", torch.ones(()))
        pyro.sample("z", dist.Bernoulli(logits=loc))

    state = torch.get_rng_state()
    backend_pyro.package.plan_sites(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == ["kept"]
    assert pyro.param("kept") is kept


def test_a_site_whose_value_the_program_reads_is_left(backend_pyro):
    def model():
        z = pyro.sample("z", dist.Bernoulli(0.5))
        loc = 1.0 if z else -1.0
        near("x", torch.tensor(loc))

    planned = backend_pyro.package.plan_sites(model)
    assert [r.decision for r in planned.decisions] == ["leave"]
    assert "number of Python" in planned.decisions[0].reason


def test_checks_of_the_host_are_no_reading(backend_pyro):
    def model():
        z = pyro.sample("z", dist.Categorical(PROBS[0]))
        fn = dist.Categorical(PROBS[z], validate_args=True)
        pyro.sample("x", fn, obs=torch.tensor(1))

    assert backend_pyro.package.plan_sites(model).enumerated == ("z",)


def test_a_lookup_does_not_taint_its_table(backend_pyro):
    def model():
        table = torch.arange(3.0)
        a = pyro.sample("a", dist.Categorical(PROBS[0]))
        near("x", table[a])
        b = pyro.sample("b", dist.Categorical(PROBS[0]))
        near("y", table[b] + table[0])

    assert backend_pyro.package.plan_sites(model).cost_after == 3


def test_scales_that_differ_between_components_are_refused(backend_pyro):
    def model():
        with pyro.plate("rows", 50, subsample_size=5):
            z = pyro.sample("z", dist.Categorical(PROBS[0]))
            near("x", 1.0 * z, 5)
        a = pyro.sample("a", dist.Categorical(PROBS[0]))
        near("y", 1.0 * a)

    with pytest.raises(ValueError, match=r"common poutine\.scale"):
        TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), lambda: None)
    planned = backend_pyro.package.plan_sites(model)
    assert (planned.enumerated, planned.relaxed) == (("z",), ("a",))
    assert "of other sites 10" in planned.decisions[1].reason
