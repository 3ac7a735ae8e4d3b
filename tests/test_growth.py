"""The work of a step of the unbiased objectives is proportional to the sites."""

import importlib
from typing import NamedTuple

import numpy as np
import pytest
from asserts import assert_exact

OBJECTIVES = {"RLOO": {"num_particles": 2}, "REBAR": {}}


def coupled(backend, size):
    """Binary sites that explain one number."""

    def model():
        total = 0.0
        for n in range(size):
            fn = backend.dist.Bernoulli(backend.array(0.4))
            total = total + (n + 0.3) * backend.site(f"z_{n}", fn)
        fn = backend.dist.Normal(total, backend.array(1.0))
        backend.site("x", fn, obs=backend.array(1.2))

    def guide():
        logits = backend.param("logits", backend.array(0.3))
        for n in range(size):
            backend.site(f"z_{n}", backend.dist.Bernoulli(logits=logits))

    return model, guide


def chain_in_a_plate(backend, size):
    """Chains beside each other, of states that depend on the one before."""
    move = np.array([[0.7, 0.3], [0.2, 0.8]])

    def model():
        start = backend.site("start", backend.dist.Categorical(backend.array(move[0])))
        with backend.plate("rows", 3):
            probs = backend.array(move)[start]
            for t in range(size):
                z = backend.site(f"z_{t}", backend.dist.Categorical(probs))
                probs = backend.array(move)[z]
                fn = backend.dist.Normal(backend.array(move)[z, 0], backend.array(1.0))
                backend.site(f"x_{t}", fn, obs=backend.array([0.1, 0.5, 0.9]))

    def guide():
        logits = backend.param("logits", backend.array(0.3))
        logits = logits * backend.array([0.3, 1.0])
        backend.site("start", backend.dist.Categorical(logits=logits))
        with backend.plate("rows", 3):
            for t in range(size):
                backend.site(f"z_{t}", backend.dist.Categorical(logits=logits))

    return model, guide


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("programs", [coupled, chain_in_a_plate])
def test_operations_grow_in_proportion_to_the_sites(backend, objective, programs):
    elbo = getattr(backend.package, objective)(**OBJECTIVES[objective])

    def number(size):
        model, guide = programs(backend, size)
        params = {"logits": np.array(0.3)}
        return backend.number_of_operations(elbo, model, guide, params)

    few, more, most = (number(size) for size in (8, 10, 12))
    assert most - more == more - few


def test_terms_of_a_plate_are_summed_as_one_by_one(backend, rng):
    """Terms in two plates, in one of them, in another of the same dim, and in none."""
    rows, columns = Plate("rows", -1), Plate("columns", -2)
    others = Plate("others", -1)
    shapes = {
        (rows,): (3,),
        (columns, rows): (2, 3),
        (columns,): (2, 1),
        (others,): (4,),
        (): (),
    }
    terms = elbo_terms_of(backend)()
    values = {frames: rng.normal(size=(10, *shape)) for frames, shape in shapes.items()}
    for frames, rows_of_terms in values.items():
        for term in rows_of_terms:
            terms.add(backend.array(term), frames)
    sums = {frames: value.sum(0) for frames, value in values.items()}
    total = sum(value.sum() for value in sums.values())
    assert_exact(backend.numpy(terms.total()), total)
    outside = sums[(others,)].sum() + sums[()]
    expected = (
        sums[(rows,)] + sums[(columns, rows)].sum(0) + sums[(columns,)].sum() + outside
    )
    assert_exact(backend.numpy(terms.by_element([rows])), expected)
    expected = sums[(rows,)] + sums[(columns, rows)] + sums[(columns,)] + outside
    assert_exact(backend.numpy(terms.by_element([rows, columns])), expected)


def test_a_term_without_the_dim_of_its_plate_counts_once(backend):
    rows = Plate("rows", -1)
    terms = elbo_terms_of(backend)()
    terms.add(backend.array([1.0, 2.0]), [rows])
    terms.add(backend.array(10.0), [rows])
    assert_exact(backend.numpy(terms.total()), 13.0)
    assert_exact(backend.numpy(terms.by_element([rows])), np.array([11.0, 12.0]))


class Plate(NamedTuple):
    name: str
    dim: int


def elbo_terms_of(backend):
    module = f"{backend.package.__name__}.objectives.elbo_terms"
    return importlib.import_module(module).ElboTerms
