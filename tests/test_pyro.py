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


@pytest.mark.parametrize("kind", ["JitTrace", "JitTraceGraph", "JitTraceMeanField"])
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


def test_relax_is_a_context_manager(backend):
    model, _ = two_layers(backend)
    with backend.package.relax(temperature=0.5):
        assert "b_relaxed" in backend.trace(model, backend.array(DATA))
    with backend.pyro.poutine.trace() as trace, backend.package.relax(temperature=0.5):
        model(backend.array(DATA))
    assert "b_relaxed" in trace.trace.nodes


@pytest.mark.parametrize("name", ["AutoNormal", "AutoDelta", "AutoMultivariateNormal"])
def test_autoguides_accept_relaxed_sites(backend, name):
    model, _ = two_layers(backend)
    relaxed = backend.package.relax(model, 0.5)
    backend.pyro.clear_param_store()
    guide = getattr(backend.pyro.infer.autoguide, name)(relaxed)
    losses, _ = backend.train("Trace", relaxed, guide, backend.array(DATA), steps=5)
    assert_finite(losses)


def test_nuts_runs_on_a_relaxed_model(backend):
    model, _ = two_layers(backend)
    kernel = backend.pyro.infer.NUTS(backend.package.relax(model, 0.5))
    mcmc = backend.pyro.infer.MCMC(
        kernel, num_samples=5, warmup_steps=5, disable_progbar=True
    )
    mcmc.run(backend.array(DATA))
    samples = mcmc.get_samples()["c_relaxed"]
    assert samples.shape == (5, 8, 3)
    assert_exact(np.exp(backend.numpy(samples)).sum(-1), np.ones((5, 8)))


@pytest.mark.parametrize(
    "use",
    [
        lambda z: z.long(),
        lambda z: z.int(),
        lambda z: z.bool(),
        lambda z: z.to(dtype=z.new_zeros(1, dtype=int).dtype),
        lambda z: z.clone().detach().long(),
        lambda z: (1 - z).long(),
        lambda z: z.T.bool() if z.dim() > 1 else z.t().bool(),
        lambda z: z.round(),
        lambda z: ~z,
        lambda z: z & 1,
    ],
    ids=range(10),
)
def test_casting_a_relaxed_bit_is_a_type_error(backend, use):
    def program():
        fn = backend.dist.Bernoulli(logits=backend.torch.zeros(2, 3)).to_event(2)
        use(backend.site("z", fn))

    with pytest.raises(TypeError, match="'z' is relaxed"):
        backend.package.relax(program, 0.5)()


def test_a_relaxed_bit_as_index_or_condition_is_a_type_error(backend):
    torch = backend.torch
    uses = {
        "where": lambda z: torch.where(z, torch.ones(3), torch.zeros(3)),
        "masked_fill": lambda z: torch.ones(3).masked_fill(z, 0.0),
        "gather": lambda z: torch.ones(3).gather(0, z),
        "index_select": lambda z: torch.ones(3).index_select(0, z),
        "one_hot": torch.nn.functional.one_hot,
        "embedding": lambda z: torch.nn.functional.embedding(z, torch.ones(2, 2)),
    }
    z = backend.soft_index.SoftBit(torch.rand(3), "z")
    for use in uses.values():
        with pytest.raises(TypeError, match="'z' is relaxed"):
            use(z)


def test_networks_see_the_number(backend):
    torch = backend.torch
    number = torch.rand(5, 3, requires_grad=True)
    layer = torch.nn.Linear(3, 2)
    soft = layer(backend.soft_index.SoftBit(number, "z"))
    assert type(soft) is torch.Tensor
    assert_exact(backend.numpy(soft), backend.numpy(layer(number)), "float32")
    (gradient,) = torch.autograd.grad(soft.sum(), number)
    assert gradient.abs().min() > 0


def test_the_guard_survives_copies(backend):
    soft = backend.soft_index.SoftBit(backend.torch.rand(3), "z")
    for again in (copy.deepcopy(soft), pickle.loads(pickle.dumps(soft)), soft[1:]):
        assert again.site == "z"
        with pytest.raises(TypeError, match="'z' is relaxed"):
            again.long()


def test_plain_operands_stay_plain(backend):
    torch = backend.torch
    soft = backend.soft_index.SoftBit(torch.rand(3), "z")
    first, second = torch.broadcast_tensors(soft, torch.ones(1))
    assert type(first) is backend.soft_index.SoftBit
    assert type(second) is torch.Tensor
    assert type(torch.ones(1).expand_as(soft)) is torch.Tensor
    assert type(torch.cat([torch.ones(3), soft])) is torch.Tensor
