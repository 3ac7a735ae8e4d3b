"""What only Pyro and torch have: compilers, pickles, contexts, JIT ELBOs."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from asserts import assert_exact, assert_finite
from backends import get_backend, ignoring_jit_warnings
from cases import all_cases
from programs import DATA, two_layers
from scipy import stats


@pytest.fixture
def backend():
    return get_backend("pyro")


def total_of(backend, case):
    family = getattr(backend.distributions, case.name)

    def total(logits, temperature):
        d = family(temperature, logits=logits)
        value = d.rsample()
        return (d.log_prob(value) + d.log_prob(value + 0)).sum() + value.sum()

    return total


COMPILED = """
    import torch
    from pyro_concrete import *
    import pyro_concrete

    for name in ("ExpConcrete", "Concrete", "LogitBinaryConcrete", "BinaryConcrete"):
        family = getattr(pyro_concrete, name)

        def total(logits, temperature):
            d = family(temperature, logits=logits)
            value = d.rsample()
            return (d.log_prob(value) + d.log_prob(value + 0)).sum() + value.sum()

        def density(value, logits):
            return family(0.5, logits=logits).log_prob(value)

        def compiled(fn):
            torch._dynamo.reset()
            return torch.compile(fn, fullgraph=True, backend="aot_eager")

        logits = torch.tensor([[0.7, -0.3, 0.1]], requires_grad=True)
        temperature = torch.tensor(0.5, requires_grad=True)
        compiled(total)(logits, temperature).backward()
        assert logits.grad.isfinite().all() and temperature.grad.isfinite()
        value = family(0.5, logits=logits).sample()
        gap = compiled(density)(value, logits) - density(value, logits)
        print(name, gap.abs().max().item() < 1e-5)
"""


def test_compiles_as_one_graph():
    # In a process of its own: the type checks of the suite are not for compilers.
    command = [sys.executable, "-c", textwrap.dedent(COMPILED)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.split() == [
        *("ExpConcrete", "True", "Concrete", "True"),
        *("LogitBinaryConcrete", "True", "BinaryConcrete", "True"),
    ], result.stderr[-2000:]


@all_cases
def test_traces_by_torch_jit(backend, case):
    torch, total = backend.torch, total_of(backend, case)
    args = torch.tensor(case.array), torch.tensor(0.5, dtype=torch.float64)
    with ignoring_jit_warnings():
        traced = torch.jit.trace(total, args, check_trace=False)
    torch.manual_seed(0)
    expected = total(*args)
    torch.manual_seed(0)
    assert_exact(traced(*args), expected)


@all_cases
def test_jacobian_and_hessian_by_torch_func(backend, case):
    torch = backend.torch
    value = torch.tensor(case.interior()[0])
    family = getattr(backend.distributions, case.name)

    def log_prob(logits):
        return family(0.7, logits=logits).log_prob(value).sum()

    with ignoring_jit_warnings():
        hessian = torch.func.hessian(log_prob)(torch.tensor(case.array))
    assert_finite(hessian)


@all_cases
def test_pickle_round_trip(backend, case):
    family = getattr(backend.distributions, case.name)
    logits = backend.torch.tensor(case.array, requires_grad=True)
    d = family(0.5, logits=logits)
    value = d.rsample()  # leaves a sample in the graph, which does not pickle
    again = pickle.loads(pickle.dumps(d))
    assert_exact(backend.numpy(again.log_prob(value)), backend.numpy(d.log_prob(value)))
    assert copy.deepcopy(d).temperature == d.temperature


@pytest.mark.parametrize(
    "kind",
    [
        "JitTrace",
        "JitTraceGraph",
        pytest.param("JitTraceMeanField", marks=pytest.mark.slow),
    ],
)
def test_jit_elbos_train(backend, kind):
    model, guide = two_layers(backend)
    relax = backend.package.relax
    with ignoring_jit_warnings():
        losses, _ = backend.train(
            kind,
            relax(model, 0.5),
            relax(guide, 2 / 3),
            backend.array(DATA),
            max_plate_nesting=1,
            ignore_jit_warnings=True,
            steps=60,
        )
    assert losses[-10:].mean() < losses[:10].mean()


@pytest.mark.parametrize("scoring", ["concrete", "discrete"])
def test_a_traced_elbo_has_the_loss_and_gradients_of_the_elbo(backend, scoring):
    model, guide = two_layers(backend)
    relaxed = [
        backend.package.relax(program, temperature, scoring=scoring)
        for program, temperature in ((model, 1 / 2), (guide, 2 / 3))
    ]
    data = backend.array(DATA)
    guide(data)  # creates the parameters
    params = {k: backend.numpy(v) for k, v in backend.pyro.get_param_store().items()}
    settings = {"max_plate_nesting": 1}
    plain = backend.evaluated(backend.elbo("Trace", **settings), *relaxed, data)
    traced = backend.elbo("JitTrace", ignore_jit_warnings=True, **settings)
    traced = backend.evaluated(traced, *relaxed, data)
    with ignoring_jit_warnings():
        traced(params)  # traces the loss, which draws as well
        for seed in (1, 2):
            loss, gradients = traced(params, seed)
            expected_loss, expected_gradients = plain(params, seed)
            # The model computes in float32, and a traced sum has another order.
            assert_exact(loss, expected_loss, "float32")
            assert gradients.keys() == expected_gradients.keys()
            for name, gradient in gradients.items():
                assert_exact(gradient, expected_gradients[name], "float32")


def test_relax_is_a_context_manager(backend):
    model, _ = two_layers(backend)
    with backend.package.relax(temperature=0.5):
        assert "b_relaxed" in backend.trace(model, backend.array(DATA))
    with backend.pyro.poutine.trace() as trace, backend.package.relax(temperature=0.5):
        model(backend.array(DATA))
    assert "b_relaxed" in trace.trace.nodes


@pytest.mark.parametrize(
    "name",
    [
        "AutoNormal",
        "AutoDelta",
        "AutoMultivariateNormal",
        "AutoLowRankMultivariateNormal",
        "AutoIAFNormal",
    ],
)
def test_autoguides_accept_relaxed_sites(backend, name):
    model, _ = two_layers(backend)
    relaxed = backend.package.relax(model, 0.5, scoring="concrete")
    backend.pyro.clear_param_store()
    guide = getattr(backend.pyro.infer.autoguide, name)(relaxed)
    losses, _ = backend.train("Trace", relaxed, guide, backend.array(DATA), steps=5)
    assert_finite(losses)


def test_sites_of_a_sequential_plate_have_factors_of_their_own(backend):
    pyro, dist = backend.pyro, backend.dist
    given = np.array([[0.2, 0.8], [0.5, 0.5], [0.7, 0.3]])

    def model():
        for i in pyro.plate("rows", 3):
            z = pyro.sample(f"z_{i}", dist.Categorical(backend.array(given[i])))
            pyro.sample(f"x_{i}", dist.Normal(1.0 * z, 1.0), obs=backend.array(0.5))

    relaxed = backend.package.relax(model, 0.5)
    guide = backend.package.AutoConcrete(relaxed)
    params = backend.initial_params(guide)
    probs = backend.probabilities(guide, params)
    assert_exact(np.stack([probs[f"z_{i}"] for i in range(3)]), given)
    losses, _ = backend.train("Trace", relaxed, guide, steps=3)
    assert_finite(losses)


def test_nuts_runs_on_a_relaxed_model(backend):
    model, _ = two_layers(backend)
    relaxed = backend.package.relax(model, 0.5, scoring="concrete")
    kernel = backend.pyro.infer.NUTS(relaxed)
    mcmc = backend.pyro.infer.MCMC(
        kernel, num_samples=5, warmup_steps=5, disable_progbar=True
    )
    mcmc.run(backend.array(DATA))
    samples = mcmc.get_samples()["c_relaxed"]
    assert samples.shape == (5, 8, 3)
    assert_exact(np.exp(backend.numpy(samples)).sum(-1), np.ones((5, 8)))


def gaussian_and_bits(backend):
    """A model with a continuous site beside relaxed ones, scored by masses."""
    pyro, dist = backend.pyro, backend.dist

    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(backend.array(0.3)))
        c = pyro.sample("c", dist.Categorical(backend.array([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(loc + z + c, 1.0), obs=backend.array(1.5))

    return backend.package.relax(model)


def test_a_sampler_that_needs_a_density_says_so(backend):
    kernel = backend.pyro.infer.NUTS(gaussian_and_bits(backend))
    mcmc = backend.pyro.infer.MCMC(
        kernel, num_samples=2, warmup_steps=2, disable_progbar=True
    )
    with pytest.raises(ValueError, match=r"no density.*concrete"):
        mcmc.run()


@pytest.mark.parametrize("name", ["AutoNormal", "AutoMultivariateNormal"])
def test_guides_that_need_a_density_say_so(backend, name):
    pyro, auto = backend.pyro, backend.pyro.infer.autoguide
    relaxed = gaussian_and_bits(backend)
    with pytest.raises(ValueError, match=r"no density.*AutoConcrete"):
        getattr(auto, name)(relaxed)()
    # A guide of the other sites alone does not move the relaxed ones.
    guide = getattr(auto, name)(pyro.poutine.block(relaxed, expose=["loc"]))
    guide()
    assert "loc" in pyro.poutine.trace(guide).get_trace()


# --- handlers around and inside of relax --------------------------------------------


def chain(backend, **infer):
    """Two chains beside each other, of which one may be marked for enumeration."""
    pyro, dist, torch = backend.pyro, backend.dist, backend.torch
    trans = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    locs = torch.tensor([-1.0, 1.0])

    def model(data):
        with pyro.plate("rows", len(data)):
            w = x = 0
            for t in pyro.markov(range(3)):
                w = pyro.sample(f"w_{t}", dist.Categorical(trans[w]), infer=infer)
                x = pyro.sample(f"x_{t}", dist.Categorical(trans[x]))
                loc = locs[w] + 3 * locs[x]
                pyro.sample(f"y_{t}", dist.Normal(loc, 1.0), obs=data)

    def guide(data):
        with pyro.plate("rows", len(data)):
            for t in range(3):
                logits = pyro.param(f"x_{t}_logits", torch.zeros(len(data), 2))
                pyro.sample(f"x_{t}", dist.Categorical(logits=logits))

    return model, guide


def test_a_relaxed_chain_beside_an_enumerated_one(backend):
    """The loss of both programs at a vertex is that of the discrete ones there."""
    torch, relax = backend.torch, backend.package.relax
    model, _ = chain(backend, enumerate="parallel")
    data = torch.tensor([0.3, -1.2])
    point = torch.tensor([[0.0, -1e4], [-1e4, 0.0]])
    vertex = {f"x_{t}_relaxed": point for t in range(3)}
    hard = {f"x_{t}": torch.tensor([0, 1]) for t in range(3)}
    elbo = backend.pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    nothing = backend.pyro.poutine.block(lambda data: None)
    condition = backend.pyro.poutine.condition
    relaxed = elbo.loss(condition(relax(model, 0.5), vertex), nothing, data)
    discrete = elbo.loss(condition(model, hard), nothing, data)
    # Apart from the scores of the relaxed sites themselves.
    traced = backend.log_prob(relax(model, 0.5), data, values=vertex)
    own = sum(float(traced[name]) for name in vertex)
    trans = np.log([[0.8, 0.2], [0.3, 0.7]])
    prior = trans[0, 0] * 3 + trans[0, 1] + 2 * trans[1, 1]
    assert_exact(relaxed + own, discrete + prior, "float32")


def test_a_relaxed_chain_trains_beside_an_enumerated_one(backend):
    relax, (model, guide) = backend.package.relax, chain(backend, enumerate="parallel")
    losses, _ = backend.train(
        "TraceEnum",
        relax(model, 0.5),
        relax(guide, 2 / 3),
        backend.torch.tensor([0.3, -1.2]),
        max_plate_nesting=1,
        steps=3,
    )
    assert_finite(losses)


def test_a_block_inside_of_relax_hides_no_relaxed_site(backend):
    model, _ = chain(backend)
    blocked = backend.pyro.poutine.block(model, expose=["x_1"])
    data = backend.torch.tensor([0.3, -1.2])
    sites = backend.trace(backend.package.relax(blocked, 0.5), data)
    assert list(sites) == ["x_1_relaxed", "x_1"]


def test_scopes_rename_a_relaxed_site_once(backend):
    from pyro.contrib.autoname import scope

    def program():
        with scope(prefix="layer"):
            fn = backend.dist.Categorical(logits=backend.torch.zeros(3))
            backend.pyro.sample("z", fn)

    sites = backend.trace(backend.package.relax(program, 0.5))
    assert list(sites) == ["layer/z_relaxed", "layer/z"]


def test_relations_of_a_relaxed_model_can_be_drawn(backend):
    from pyro.infer.inspect import get_model_relations

    model, _ = chain(backend)
    data = backend.torch.tensor([0.3, -1.2])
    relations = get_model_relations(backend.package.relax(model, 0.5), (data,))
    assert "x_0_relaxed" in relations["sample_sample"]["x_1_relaxed"]


def test_a_soft_size_of_a_plate_is_refused_by_name(backend):
    def program():
        fn = backend.dist.Categorical(logits=backend.torch.zeros(3))
        z = backend.pyro.sample("z", fn)
        with backend.pyro.plate("rows", z + 1):
            pass

    with pytest.raises(TypeError, match="'z' is relaxed"):
        backend.package.relax(program, 0.5)()


def test_a_vectorized_chain_is_refused_by_its_site(backend):
    import funsor
    from pyro.contrib.funsor.handlers import vectorized_markov

    funsor.set_backend("torch")  # tests of NumPyro before it have set JAX

    def model():
        step, prev = backend.array(np.full((3, 3), 1 / 3)), 0
        for i in vectorized_markov(name="time", size=4, dim=-1):
            prev = backend.site(f"x_{i}", backend.dist.Categorical(step[prev]))

    with pytest.raises(NotImplementedError, match=r"site 'x_slice.*pyro.markov"):
        backend.package.relax(model, 0.5)()


@pytest.mark.parametrize("by_site", [False, True])
def test_a_parameter_as_temperature_is_one_of_the_guide(backend, by_site):
    torch, pyro = backend.torch, backend.pyro

    def model():
        fn = backend.dist.Bernoulli(torch.tensor([0.3, 0.6])).to_event(1)
        z = backend.site("z", fn)
        backend.site("x", backend.dist.Normal(z.sum(), 1.0), obs=torch.tensor(1.0))

    pyro.clear_param_store()
    start = torch.nn.Parameter(torch.tensor(0.6))
    relaxed = backend.package.relax(model, 0.5)
    given = {"z": start} if by_site else start
    guide = backend.package.AutoConcrete(relaxed, given)
    adam = pyro.optim.Adam({"lr": 0.1})
    svi = pyro.infer.SVI(relaxed, guide, adam, pyro.infer.Trace_ELBO())
    svi.step()
    assert any("temperature" in name for name in pyro.get_param_store())
    assert start.item() != pytest.approx(0.6)


def test_a_parameter_of_the_model_as_temperature_has_a_gradient_in_the_guide(backend):
    torch, pyro = backend.torch, backend.pyro

    def model():
        fn = backend.dist.Bernoulli(torch.tensor([0.3, 0.6])).to_event(1)
        backend.site("z", fn)

    pyro.clear_param_store()
    t = torch.nn.Parameter(torch.tensor([0.6]))
    relaxed = backend.package.relax(model, t)
    guide = backend.package.AutoConcrete(relaxed)
    guide()
    site = pyro.poutine.trace(guide).get_trace().nodes["z_relaxed"]
    (grad,) = torch.autograd.grad(site["value"].sum(), [t])
    assert grad != 0


def test_a_matching_is_refused_by_its_site(backend):
    torch, pyro = backend.torch, backend.pyro

    def model():
        backend.site("m", backend.dist.OneOneMatching(torch.zeros(3, 3)))
        backend.site("z", backend.dist.Bernoulli(torch.tensor(0.3)))

    pyro.clear_param_store()
    guide = backend.package.AutoConcrete(backend.package.relax(model, 0.5))
    with pytest.raises(NotImplementedError, match=r"'m' of family OneOneM.*hide=\['m'"):
        guide()


def test_a_masked_guide_is_pickled_without_its_model(backend):
    torch, pyro = backend.torch, backend.pyro

    def model(mask):
        with pyro.plate("rows", 2), pyro.poutine.mask(mask=mask):
            backend.site("z", backend.dist.Bernoulli(torch.tensor(0.3)))

    pyro.clear_param_store()
    mask = torch.tensor([True, False])
    guide = backend.package.AutoConcrete(backend.package.relax(model, 0.5))
    guide(mask)
    with pytest.raises(RuntimeError, match="pickled without its model"):
        pickle.loads(pickle.dumps(guide))(mask)


def test_a_mixture_of_counts_has_the_values_of_the_largest(backend):
    from pyro_concrete.relaxation.finite_support import support_of

    torch, dist = backend.torch, backend.dist
    shares = torch.tensor([[0.4, 0.6], [0.5, 0.5]], requires_grad=True)
    counts = torch.tensor([[1.0, 2.0], [1.0, 1.0]])
    probs = torch.tensor([[0.3, 0.5], [0.2, 0.9]], requires_grad=True)
    parts = dist.Binomial(counts, probs)
    fn = dist.MixtureSameFamily(dist.Categorical(shares), parts)
    support = support_of("z", fn)
    assert support.values.tolist() == [0.0, 1.0, 2.0]
    one = 0.4 * stats.binom.pmf(np.arange(3), 1, 0.3)
    one = one + 0.6 * stats.binom.pmf(np.arange(3), 2, 0.5)
    other = 0.5 * stats.binom.pmf(np.arange(3), 1, 0.2)
    other = other + 0.5 * stats.binom.pmf(np.arange(3), 1, 0.9)
    found = support.logits.exp()
    assert_exact(found.detach(), [one, other], "float32")
    for grad in torch.autograd.grad(found[:, 1].sum(), [shares, probs]):
        assert grad.isfinite().all()
