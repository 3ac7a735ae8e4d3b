"""Replayed traces, scopes and blocks around relaxed programs: which sites relax."""

import functools
import pickle

import numpy as np
import pytest
from asserts import assert_exact
from programs import one_bit, one_bit_guide

T = 0.5
# The KL of two binary Concretes of one temperature, by the difference of their logits.
KL = 2 / np.tanh(1) - 2


def bit_and_level(backend, level_is_observed=True):
    """A bit, and a continuous site whose mean it is."""

    def model():
        z = backend.site("z", backend.dist.Bernoulli(logits=backend.array(0.3)))
        observed = backend.array(0.7) if level_is_observed else None
        level = backend.dist.Normal(2.0 * z, backend.array(1.0))
        backend.site("x", level, obs=observed)

    return model


def names(backend, program):
    return [name for name in backend.trace(program) if name != "rows"]


@pytest.mark.parametrize("prefixes", [("s",), ("s", "t")])
def test_a_scope_around_both_programs(backend, prefixes):
    relax = backend.package.relax
    model = relax(one_bit(backend, 0.0), T, scoring="concrete")
    guide = relax(one_bit_guide(backend), T, scoring="concrete")
    for prefix in prefixes:
        model, guide = (backend.scope(x, prefix) for x in (model, guide))
    loss = backend.loss(
        "TraceMeanField", model, guide, params={"a": backend.array(2.0)}
    )
    assert_exact(loss, KL)


def test_a_scope_around_an_unrelaxed_guide_is_an_error(backend):
    model = backend.scope(backend.package.relax(one_bit(backend, 0.0), T), "s")
    guide = backend.scope(one_bit_guide(backend), "s")
    with pytest.raises(ValueError, match=r"'z' is relaxed.*Relax the guide"):
        backend.loss("Trace", model, guide)


def two_scopes(backend):
    """A model of two relaxed models, each in a scope of its own."""
    relax = backend.package.relax
    parts = [
        backend.scope(relax(one_bit(backend, logit), T, scoring="concrete"), prefix)
        for prefix, logit in (("first", 0.0), ("second", 1.0))
    ]

    def model():
        for part in parts:
            part()

    return model


def test_a_guide_for_relaxed_models_in_scopes(backend):
    model = two_scopes(backend)
    guide = backend.package.AutoConcrete(
        model, init_logits={"first/z": 2.0, "second/z": 3.0}
    )
    params = backend.initial_params(guide)
    probabilities = backend.probabilities(guide, params)
    assert_exact(probabilities["first/z"][1], 1 / (1 + np.exp(-2.0)))
    if backend.name == "pyro":
        guide = functools.partial(guide)  # the parameters are those of the module
    loss = backend.loss("TraceMeanField", model, guide, params=params)
    assert_exact(loss, 2 * KL)


def test_a_blocked_model_is_relaxed_without_a_guide(backend):
    """A trace that is replayed further out has nothing to do with it."""
    values = []

    def bit():
        logits = backend.array(0.0)
        return backend.site("z", backend.dist.Bernoulli(logits=logits))

    hidden = backend.block(backend.package.relax(bit, T), hide=["z", "z_relaxed"])
    replayed = backend.replay(lambda: values.append(hidden()), bit)
    backend.call(replayed)
    assert 0 < backend.numpy(values[0]) < 1


def test_a_trace_without_the_site_leaves_it_discrete(backend):
    model = backend.package.relax(bit_and_level(backend, False), T)
    replayed = backend.replay(model, model, only=["x"])
    sites = backend.trace(replayed)
    assert names(backend, replayed) == ["z", "x"]
    assert float(backend.numpy(sites["z"]["value"])) in (0.0, 1.0)


def test_a_trace_with_the_relaxed_site_relaxes_it(backend):
    model = backend.package.relax(bit_and_level(backend, False), T)
    replayed = backend.replay(model, model, only=["z_relaxed"])
    assert names(backend, replayed) == ["z_relaxed", "z", "x"]


def test_an_unrelaxed_guide_is_an_error(backend):
    model = backend.package.relax(one_bit(backend, 0.0), T)
    with pytest.raises(ValueError, match=r"'z' is relaxed.*Relax the guide"):
        backend.loss("Trace", model, one_bit_guide(backend))


def test_a_relaxed_guide_of_a_hardened_model_is_an_error(backend):
    relax, harden = backend.package.relax, backend.package.harden
    guide = relax(one_bit_guide(backend), T)
    for model in (
        harden(relax(one_bit(backend, 0.0), T)),
        harden(by_hand(backend, np.log(3.0))),
    ):
        with pytest.raises(ValueError, match=r"'z' is discrete.*harden\(guide\)"):
            backend.loss("Trace", model, guide)


def by_hand(backend, logit):
    """A relaxed site without `relax`."""

    def program():
        point = backend.package.LogitBinaryConcrete(T, logits=backend.array(logit))
        backend.site("z_relaxed", point)

    return program


# --- harden gives the discrete program itself ---------------------------------------


def test_a_hardened_program_branches_on_values(backend):
    """It gets numbers and no soft ones, and can do what a relaxed program cannot."""

    def program():
        n = backend.site("n", backend.dist.Categorical(backend.array([0.2, 0.3, 0.5])))
        return [int(n) for _ in range(int(n))]

    relaxed = backend.package.relax(program, T)
    with pytest.raises(TypeError, match="'n' is relaxed"):
        backend.call(relaxed)
    values = backend.call(backend.package.harden(relaxed))
    assert len(values) in (0, 1, 2)


def test_a_hardened_program_keeps_types(backend):
    model = bit_and_level(backend)
    discrete = backend.trace(model)
    hardened = backend.trace(backend.package.harden(backend.package.relax(model, T)))
    assert discrete.keys() == hardened.keys()
    dtypes = [backend.dtype(x["z"]["value"]) for x in (discrete, hardened)]
    assert dtypes[0] == dtypes[1]


# --- names of sites in settings -----------------------------------------------------


@pytest.mark.parametrize("setting", ["temperature", "truncate", "estimator", "sites"])
def test_unknown_names_are_refused_by_every_setting(backend, setting):
    value = {
        "temperature": {"z": T, "Z": T},
        "truncate": {"Z": 3},
        "estimator": {"Z": backend.package.ReinMax()},
        "sites": ["Z"],
    }[setting]
    settings = {"temperature": T, setting: value}
    relaxed = backend.package.relax(one_bit(backend, 0.0), **settings)
    with pytest.raises(ValueError, match=rf"{setting}=.*names \['Z'\].*\['z'\]"):
        backend.call(relaxed)
    with pytest.raises(ValueError, match=rf"{setting}=.*names \['Z'\]"):
        backend.call(backend.package.harden(relaxed))


def test_unknown_marks_are_refused(backend):
    def model():
        fn = backend.dist.Bernoulli(logits=backend.array(0.3))
        backend.site("z", fn, infer={"relax": {"temprature": T}})

    with pytest.raises(ValueError, match=r"'z' has infer=.*\['temprature'\]"):
        backend.call(backend.package.relax(model, T))


def test_unknown_names_are_refused_by_a_guide(backend):
    relaxed = backend.package.relax(one_bit(backend, 0.0), T)
    guide = backend.package.AutoConcrete(relaxed, {"z": T, "Z": T})
    with pytest.raises(ValueError, match=r"temperature names no .*\['Z'\]"):
        backend.initial_params(guide)


def test_schedules_of_unknown_sites_are_refused(backend):
    schedule = backend.package.schedules.Constant(T)
    relaxed = backend.package.relax(one_bit(backend, 0.0), {"z": T, "Z": schedule})
    with pytest.raises(ValueError, match=r"names \['Z'\]"):
        backend.call(relaxed)


# --- pickling -----------------------------------------------------------------------


class Level:
    """A model that pickles, for it is an instance of a class of this module."""

    def __init__(self, name, loc):
        self.name = name
        self.loc = loc

    def __call__(self):
        from backends import get_backend

        backend = get_backend(self.name)
        fn = backend.dist.Categorical(backend.array([0.2, 0.3, 0.5]))
        z = backend.site("z", fn)
        backend.site("x", backend.dist.Normal(self.loc * z, 1.0))


@pytest.mark.parametrize("kind", ["relax", "harden", "config", "partial", "schedule"])
def test_programs_pickle(backend, kind):
    package = backend.package
    model = Level(backend.name, 2.0)
    schedule = package.schedules.Linear(1.0, T, num_steps=10)
    program = {
        "relax": lambda: package.relax(model, T, estimator=package.StraightThrough()),
        "harden": lambda: package.harden(package.relax(model, T)),
        "config": lambda: package.relax(
            package.config_relax(model, temperature=T), 1.0
        ),
        "partial": lambda: package.relax(functools.partial(model), T),
        "schedule": lambda: package.relax(model, {"z": schedule}),
    }[kind]()
    before = backend.trace(program, seed=3)
    program = pickle.loads(pickle.dumps(program))
    after = backend.trace(program, seed=3)
    assert before.keys() == after.keys()
    for name in before:
        values = [backend.numpy(x[name]["value"]) for x in (before, after)]
        assert_exact(*values)


def test_relax_decorates_methods(backend):
    class Model:
        @backend.package.relax(temperature=T)
        def run(self, logit):
            one_bit(backend, logit)()

    assert "z_relaxed" in backend.trace(Model().run, 0.3)
