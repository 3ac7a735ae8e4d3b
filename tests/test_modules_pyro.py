"""What only torch has: modules as programs, and NumPy's arrays beside tensors."""

import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asserts import assert_exact
from pyro.nn import PyroModule, PyroParam
from reference import concrete

import pyro_concrete


def test_arrays_of_numpy_are_temperatures():
    temperature = np.array([0.4, 0.9])
    value = torch.tensor([0.3, -1.0])
    d = pyro_concrete.LogitBinaryConcrete(temperature, logits=torch.zeros(2))
    log_density = concrete.logit_binary_concrete_log_density
    expected = log_density(value.numpy(), temperature, np.zeros(2))
    assert_exact(d.log_prob(value), expected, dtype="float32", scale=10)

    def model():
        with pyro.plate("rows", 2):
            return pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

    for t in (temperature, {"z": temperature}, np.float64(0.4)):
        trace = pyro.poutine.trace(pyro_concrete.relax(model, t)).get_trace()
        found = trace.nodes["z_relaxed"]["fn"].temperature
        expected = np.asarray(t["z"] if isinstance(t, dict) else t)
        assert_exact(found, expected, dtype="float32")


# --- modules -------------------------------------------------------------------------


class Mixture(PyroModule):
    """A module with a parameter of each kind."""

    def __init__(self):
        super().__init__()
        self.locs = PyroParam(torch.tensor([-1.0, 1.0]))
        self.shift = PyroModule[torch.nn.Linear](1, 1)

    def forward(self, x):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.25)))
        loc = self.locs[z.long()] + self.shift(torch.ones(1)).sum()
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


PROGRAMS = {
    "relax": lambda m: pyro_concrete.relax(m, 0.5),
    "decorator": lambda m: pyro_concrete.relax(temperature=0.5)(m),
    "harden": lambda m: pyro_concrete.harden(pyro_concrete.relax(m, 0.5)),
    "config": lambda m: pyro_concrete.relax(pyro_concrete.config_relax(m), 0.5),
}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_of_a_module_has_its_parameters(make):
    model = Mixture()
    program = make(model)
    assert isinstance(program, torch.nn.Module)
    own, parameters = dict(model.named_parameters()), list(program.parameters())
    assert len(parameters) == len(own) == 3
    assert all(any(x is y for y in parameters) for x in own.values())
    program.to(torch.float64)
    assert model.shift.weight.dtype == torch.float64
    state = program.state_dict()
    assert [name.rpartition("fn.")[2] for name in state] == list(model.state_dict())
    other = Mixture()
    make(other).load_state_dict(state)
    assert_exact(other.shift.bias.detach(), model.shift.bias.detach(), "float32")


@pytest.mark.parametrize("auto", [False, True])
def test_an_elbo_module_trains_the_parameters_of_a_relaxed_module(auto):
    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.logits = PyroParam(torch.tensor(0.1))

        def forward(self, x):
            pyro.sample("z", dist.Bernoulli(logits=self.logits))

    data = torch.tensor(2.5)
    with pyro.settings.context(module_local_params=True):
        model = Mixture()
        relaxed = pyro_concrete.relax(model, 0.5)
        guide = pyro_concrete.relax(Guide(), 0.5)
        if auto:
            guide = pyro_concrete.AutoConcrete(relaxed)
            guide(data)
        loss = pyro.infer.Trace_ELBO()(relaxed, guide)
        before = [x.detach().clone() for x in loss.parameters()]
        assert len(before) == 4
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            loss(data).backward()
            optimizer.step()
        after = list(loss.parameters())
        assert all(bool((x != y).any()) for x, y in zip(before, after, strict=True))


def test_a_relaxed_module_keeps_the_names_of_its_parameters():
    pyro.clear_param_store()
    model = Mixture()
    relaxed = pyro_concrete.relax(model, 0.5)
    pyro.poutine.trace(relaxed).get_trace(torch.tensor(1.0))
    names = {"locs", "shift.weight", "shift.bias"}
    assert set(pyro.get_param_store()) == names
    pyro.clear_param_store()
    pyro.poutine.trace(model).get_trace(torch.tensor(1.0))
    assert set(pyro.get_param_store()) == names


def test_a_relaxed_module_lists_a_temperature_that_is_a_parameter():
    temperature = torch.nn.Parameter(torch.tensor(0.5))
    relaxed = pyro_concrete.relax(Mixture(), temperature)
    assert any(x is temperature for x in relaxed.parameters())


def test_relaxed_modules_pickle_after_a_run():
    data = torch.tensor(1.0)
    relaxed = pyro_concrete.relax(Mixture(), 0.5)
    pyro.poutine.trace(relaxed).get_trace(data)
    copied = pickle.loads(pickle.dumps(relaxed))
    values = []
    for program in (relaxed, copied):
        pyro.set_rng_seed(0)
        trace = pyro.poutine.trace(program).get_trace(data)
        values.append(trace.log_prob_sum().detach())
    assert_exact(values[1], values[0], "float32")
