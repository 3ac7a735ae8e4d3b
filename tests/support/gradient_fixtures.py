"""Small models with exact ELBO gradients, each as a program for both hosts and as sums.

A fixture has its parameters, a `Program` for the oracles of `reference/elbo.py`, and a
function that makes model and guide for a backend. The two say the same thing twice, by
hand. Parameters are uneven and interior, and every one of them has a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from reference.elbo import Program, Site, bernoulli, bit, logsumexp, normal


@dataclass(frozen=True)
class Fixture:
    """A model and a guide with their parameters.

    Attributes:
        name: What it is, in words.
        params: Parameters of model and guide, by name.
        program: What the oracles know of it.
        programs: From a backend: model and guide, without arguments.
        plates: Greatest number of nested plates.
        enumerated: Whether the model marks a site for enumeration.
        bits: Whether all of its other sites are of two values.
    """

    name: str
    params: dict[str, np.ndarray]
    program: Program
    programs: Callable
    plates: int = 0
    enumerated: bool = False
    bits: bool = False


def _params(**values):
    return {name: np.array(value, dtype=float) for name, value in values.items()}


def _reader(backend, params):
    """What a program reads its parameters by."""
    return lambda name: backend.param(name, backend.array(params[name]))


# --- one bit, whose likelihood is quadratic in it

ONE_BIT = _params(a=0.6, b=-0.4, loc=0.3, slope=1.4)


def one_bit(backend):
    """A bit moves the mean of a number."""
    read = _reader(backend, ONE_BIT)

    def model():
        z = backend.site("z", backend.dist.Bernoulli(logits=read("b")))
        x = backend.dist.Normal(read("loc") + read("slope") * z, 0.8)
        backend.site("x", x, obs=backend.array(1.1))

    def guide():
        backend.site("z", backend.dist.Bernoulli(logits=read("a")))

    return model, guide


_ONE_BIT = Program(
    (Site("z", 2, lambda p, w: bit(p["a"]), lambda p, w: bit(p["b"])),),
    lambda p, w: normal(1.1, p["loc"] + p["slope"] * w["z"][..., 1], 0.8),
)


# --- one bit, of which nothing but the mean counts

BARE_BIT = _params(a=0.3)


def bare_bit(backend):
    """The ELBO of a guide that is the prior: the mean of a bit."""
    read = _reader(backend, BARE_BIT)

    def guide():
        return backend.site("z", backend.dist.Bernoulli(logits=read("a")))

    def model():
        backend.factor("mean", 1.0 * guide())

    return model, guide


_BARE_BIT = Program(
    (Site("z", 2, lambda p, w: bit(p["a"]), lambda p, w: bit(p["a"])),),
    lambda p, w: w["z"][..., 1],
)


# --- one class of three, with a width of its own

ONE_CLASS = _params(
    a=[0.5, -0.3, 0.1],
    b=[-0.2, 0.4, 0.0],
    locs=[-1.0, 0.5, 1.6],
    widths=[0.2, -0.3, 0.5],
)


def one_class(backend):
    """A class has the location and the width of a number."""
    read = _reader(backend, ONE_CLASS)

    def model():
        z = backend.site("z", backend.dist.Categorical(logits=read("b")))
        scale = backend.exp(read("widths"))[z]
        x = backend.dist.Normal(read("locs")[z], scale)
        backend.site("x", x, obs=backend.array(0.9))

    def guide():
        backend.site("z", backend.dist.Categorical(logits=read("a")))

    return model, guide


def _mean(table, weights):
    return (table * weights).sum(-1)


_ONE_CLASS = Program(
    (Site("z", 3, lambda p, w: p["a"], lambda p, w: p["b"]),),
    lambda p, w: normal(
        0.9, _mean(p["locs"], w["z"]), _mean(np.exp(p["widths"]), w["z"])
    ),
)


# --- a class of three, and a bit that depends on it

TWO_SITES = _params(
    a=[0.3, -0.2, 0.5],
    c=[-0.7, 0.4, 0.9],
    b=[0.4, 0.1, -0.6],
    d=[0.5, -0.6, 0.2],
    effect=[-0.8, 0.3, 1.2],
    slope=1.1,
)


def two_sites(backend):
    """A bit depends on a class in model and guide, and an outcome on both."""
    read = _reader(backend, TWO_SITES)

    def model():
        y = backend.site("y", backend.dist.Categorical(logits=read("b")))
        z = backend.site("z", backend.dist.Bernoulli(logits=read("d")[y]))
        x = backend.dist.Bernoulli(logits=read("effect")[y] + read("slope") * z)
        backend.site("x", x, obs=backend.bit(1))

    def guide():
        y = backend.site("y", backend.dist.Categorical(logits=read("a")))
        backend.site("z", backend.dist.Bernoulli(logits=read("c")[y]))

    return model, guide


_TWO_SITES = Program(
    (
        Site("y", 3, lambda p, w: p["a"], lambda p, w: p["b"]),
        Site(
            "z",
            2,
            lambda p, w: bit(_mean(p["c"], w["y"])),
            lambda p, w: bit(_mean(p["d"], w["y"])),
            parents=("y",),
        ),
    ),
    lambda p, w: bernoulli(1, _mean(p["effect"], w["y"]) + p["slope"] * w["z"][..., 1]),
)


# --- a net of two layers of two bits; the guide goes up, the model down

NET = _params(
    up=[[0.8, -0.6], [0.5, 0.9]],
    lower=[0.4, -0.5],
    down=[[0.7, -0.4], [-0.9, 0.6]],
    upper=[-0.3, 0.5],
)
_PIXELS = np.array([1.0, 0.0, 1.0])
_DECODER = np.array([[1.2, -0.7, 0.5], [-0.4, 0.9, 1.1]])
# NumPyro's Bernoulli has a wrong gradient at log-odds of exactly zero, which hard bits
# reach without a bias: see test_host_defects.py.
_BIAS = np.array([0.2, -0.1, 0.3])


def net(backend):
    """Two layers of two bits, and three pixels."""
    read = _reader(backend, NET)

    def model():
        top = backend.dist.Bernoulli(logits=read("upper")).to_event(1)
        g = backend.site("g", top)
        layer = backend.dist.Bernoulli(logits=g @ read("down")).to_event(1)
        h = backend.site("h", layer)
        logits = h @ backend.array(_DECODER) + backend.array(_BIAS)
        pixels = backend.dist.Bernoulli(logits=logits).to_event(1)
        backend.site("x", pixels, obs=backend.bit(_PIXELS))

    def guide():
        layer = backend.dist.Bernoulli(logits=read("lower")).to_event(1)
        h = backend.site("h", layer)
        backend.site("g", backend.dist.Bernoulli(logits=h @ read("up")).to_event(1))

    return model, guide


def _units(weights, name):
    """The bits of a layer as a list."""
    return [weights[f"{name}{i}"][..., 1] for i in range(2)]


def _into(matrix, units, j):
    """What goes into unit j of the next layer."""
    return sum(matrix[i, j] * unit for i, unit in enumerate(units))


_NET = Program(
    (
        *(
            Site(
                f"h{j}",
                2,
                lambda p, w, j=j: bit(p["lower"][j]),
                lambda p, w, j=j: bit(_into(p["down"], _units(w, "g"), j)),
            )
            for j in range(2)
        ),
        *(
            Site(
                f"g{j}",
                2,
                lambda p, w, j=j: bit(_into(p["up"], _units(w, "h"), j)),
                lambda p, w, j=j: bit(p["upper"][j]),
                parents=("h0", "h1"),
            )
            for j in range(2)
        ),
    ),
    lambda p, w: sum(
        bernoulli(x, _into(_DECODER, _units(w, "h"), j) + _BIAS[j])
        for j, x in enumerate(_PIXELS)
    ),
)


# --- a mixture, whose classes are indices

MIXTURE = _params(
    rows=[[0.2, -0.3, 0.4], [0.6, 0.1, -0.5], [-0.4, 0.3, 0.5], [0.1, 0.7, -0.2]],
    b=[0.3, -0.1, 0.2],
    locs=[-1.2, 0.4, 1.5],
)
_DATA = np.array([-0.9, -0.2, 1.3, 0.7])


def mixture(backend):
    """Four numbers around the location of their class."""
    read = _reader(backend, MIXTURE)

    def model():
        locs, logits = read("locs"), read("b")
        with backend.plate("data", 4, dim=-1):
            z = backend.site("z", backend.dist.Categorical(logits=logits))
            x = backend.dist.Normal(locs[z], 1.1)
            backend.site("x", x, obs=backend.array(_DATA))

    def guide():
        rows = read("rows")
        with backend.plate("data", 4, dim=-1):
            backend.site("z", backend.dist.Categorical(logits=rows))

    return model, guide


_MIXTURE = Program(
    (Site("z", 3, lambda p, w: p["rows"], lambda p, w: p["b"]),),
    lambda p, w: normal(_DATA, _mean(p["locs"], w["z"]), 1.1),
    batch=(4,),
)


# --- a class beside a bit that is enumerated

MIXED = _params(
    rows=[[0.3, -0.2, 0.1], [-0.5, 0.4, 0.2]],
    locs=[-0.8, 0.6, 1.4],
    share=-0.7,
    shift=1.2,
)
_READINGS = np.array([0.5, 1.9])


def mixed(backend):
    """Two numbers around the location of their class, some of them shifted."""
    read = _reader(backend, MIXED)

    def model():
        locs, share, shift = read("locs"), read("share"), read("shift")
        infer = {"enumerate": "parallel"}
        with backend.plate("data", 2, dim=-1):
            e = backend.site("e", backend.dist.Bernoulli(logits=share), infer=infer)
            prior = backend.dist.Categorical(logits=backend.array([0.2, 0.0, -0.3]))
            c = backend.site("c", prior)
            x = backend.dist.Normal(locs[c] + shift * e, 0.9)
            backend.site("x", x, obs=backend.array(_READINGS))

    def guide():
        rows = read("rows")
        with backend.plate("data", 2, dim=-1):
            backend.site("c", backend.dist.Categorical(logits=rows))

    return model, guide


def _shifted_or_not(p, w):
    loc, prior = _mean(p["locs"], w["c"]), p["share"]
    joint = [
        normal(_READINGS, loc + e * p["shift"], 0.9) + bernoulli(e, prior)
        for e in (0, 1)
    ]
    return logsumexp(np.stack(joint, -1))[..., 0]


_MIXED = Program(
    (Site("c", 3, lambda p, w: p["rows"], lambda p, w: np.array([0.2, 0.0, -0.3])),),
    _shifted_or_not,
    batch=(2,),
)


# For the bias against the temperature; every estimator is right about its scores.
MEAN_OF_A_BIT = Fixture("bare_bit", BARE_BIT, _BARE_BIT, bare_bit, bits=True)
FIXTURES = {
    f.name: f
    for f in (
        Fixture("one_bit", ONE_BIT, _ONE_BIT, one_bit, bits=True),
        Fixture("one_class", ONE_CLASS, _ONE_CLASS, one_class),
        Fixture("two_sites", TWO_SITES, _TWO_SITES, two_sites),
        Fixture("net", NET, _NET, net, bits=True),
        Fixture("mixture", MIXTURE, _MIXTURE, mixture, plates=1),
        Fixture("mixed", MIXED, _MIXED, mixed, plates=1, enumerated=True),
    )
}
