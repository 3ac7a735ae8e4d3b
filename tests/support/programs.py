"""Small programs that both hosts can run, written once against a backend."""

import numpy as np

DATA = np.random.default_rng(0).normal(size=(8, 4))
_WEIGHTS = np.random.default_rng(1).normal(size=(7, 4))


def one_bit(backend, logit):
    """A single Bernoulli site, z."""

    def program(*_):
        logits = logit() if callable(logit) else backend.array(logit)
        backend.site("z", backend.dist.Bernoulli(logits=logits))

    return program


def one_bit_guide(backend):
    """The guide of one_bit, with log-odds a."""
    return one_bit(backend, lambda: backend.param("a", backend.array(2.0)))


def two_layers(backend, **infer):
    """Four bits and one of three classes for each of eight rows: model and guide."""
    weights = backend.array(_WEIGHTS)

    def model(data):
        with backend.plate("rows", 8, dim=-1):
            bits = backend.dist.Bernoulli(logits=backend.array(np.zeros(4)))
            b = backend.site("b", bits.to_event(1), infer=infer)
            c = backend.site("c", backend.one_hot(backend.array(np.zeros(3))))
            loc = b @ weights[:4] + c @ weights[4:]
            backend.site("x", backend.dist.Normal(loc, 1.0).to_event(1), obs=data)

    def guide(data):
        slope = backend.param("slope", backend.array(np.full((4, 4), 0.1)))
        rows = backend.param("rows_logits", backend.array(np.zeros((8, 3))))
        with backend.plate("rows", 8, dim=-1):
            bits = backend.dist.Bernoulli(logits=data @ slope).to_event(1)
            b = backend.site("b", bits, infer=infer)
            # The second site depends on the value of the first.
            logits = rows + (1 - b).sum(-1)[..., None] * backend.array([0.1, 0.0, -0.1])
            backend.site("c", backend.one_hot(logits))

    return model, guide


def one_enumerated_bit(backend):
    """An enumerated bit beside one of three classes: model and guide."""
    weights = backend.array(np.linspace(-1, 1, 12).reshape(3, 4))
    third = backend.array(1 / 3)

    def model(data):
        dist, infer = backend.dist, {"enumerate": "parallel"}
        with backend.plate("rows", 8, dim=-1):
            e = backend.site("e", dist.Bernoulli(third), infer=infer)
            c = backend.site("c", backend.one_hot(backend.array(np.zeros(3))))
            loc = c @ weights + e[..., None]
            backend.site("x", dist.Normal(loc, 1.0).to_event(1), obs=data)

    def guide(data):
        rows = backend.param("rows_logits", backend.array(np.zeros((8, 3))))
        with backend.plate("rows", len(data), dim=-1):
            backend.site("c", backend.one_hot(rows))

    return model, guide
