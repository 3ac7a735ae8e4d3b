"""Soft integers that were merged remember their draws, and are not combined with them.

A sum over many joint values keeps its own distribution and no longer the joint one with
the draws that it was made of. What needs that joint distribution is an error by site.
"""

import copy
import io
import itertools
import pickle

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from asserts import assert_exact

from pyro_concrete.soft_index import plain, soft_index

N = 8  # 256 joint values of binary elements: more than a sum keeps
_PROBS = np.random.default_rng(0).uniform(0.1, 0.9, N)
_VALUES = [*itertools.product(range(2), repeat=N)]
LOST = r"'z( and u)?' is relaxed.*share draws"


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def binary(probs=_PROBS, site="z"):
    probs = torch.as_tensor(probs)
    return soft_index(site, torch.arange(2), torch.stack([1 - probs, probs]))


def enumerated(function, probs=_PROBS):
    """The mean of a function of the binary elements."""
    size = len(probs)
    values = np.array([*itertools.product(range(2), repeat=size)])
    weights = np.where(values == 1, probs, 1 - probs).prod(-1)
    results = np.array([np.asarray(function(torch.tensor(v))) for v in values])
    return np.tensordot(weights, results, 1)


def partial_sums(z):
    """The sum of the first seven elements, step by step."""
    count = z[0]
    for i in range(1, N - 1):
        count = count + z[i]
    return count


LOST_JOINTS = {
    "a sum and its element": lambda z: z.sum() - z[0] == 3,
    "a sum and its elements": lambda z: (z.sum() == 3) & (z == 1),
    "a sum and all of them": lambda z: z.sum() - z == 3,
    "two sums": lambda z: z.sum() - z[1:].sum() == 1,
    "a sum with an equal sum": lambda z: z.sum() == z.flip(0).sum(),
    "two parts of a sum": lambda z: (z[:7].sum() == 3) & (z[1:].sum() == 3),
    "running sums": lambda z: z.cumsum(0).diff() == 1,
    "a running sum and its elements": lambda z: z.cumsum(0) == z + 3,
    "a sum of concatenated elements": lambda z: (
        torch.cat([z[:7].sum()[None], z[:1]]).sum() == 3
    ),
    "a stack of sums": lambda z: torch.stack([z.sum(), z[0]]).diff() == 3,
    "the largest of a sum and its element": lambda z: (
        torch.stack([z.sum(), 3 * z[0]]).max() == 3
    ),
    "in order": lambda z: torch.stack([z.sum(), 3 * z[0]]).sort().values,
    "all of a sum and its elements": lambda z: torch.stack(
        [z.sum() > 3, z[0] == 1]
    ).all(),
    "a loop": lambda z: (partial_sums(z) == 3) & (z[2] == 1),
    "a loop and a sum": lambda z: partial_sums(z) * z[2] == 3,
    "a lookup by both": lambda z: torch.arange(18.0).reshape(9, 2)[z.sum(), z[0]] + 0.0,
    "where of both": lambda z: torch.where(z.sum() > 3, z, 0),
    "a sum that was moved": lambda z: z.sum().expand(2, 3)[0, :1] * z[:1],
    "a sum that was cast": lambda z: (z.sum() * 1.0 - z[0] > 2.5).double(),
    "a sum by a difference": lambda z: (N - z.sum()) * z[4] == 2,
    "a product": lambda z: z.sum() * z[0],
    "a mean": lambda z: (z.double().mean() > z[0]).double(),
    "a copy": lambda z: copy.deepcopy(z.sum()) * z[0],
    "a pickle": lambda z: loaded((z.sum() + 0) * 1, z)[0] * z[0],
    "an element at a soft place": lambda z: (
        torch.stack([z.sum(), z.sum() + 1])[soft_index("u", torch.arange(2), _HALF)]
        == z[0]
    ),
    "in place": lambda z: in_place(z) == z[0],
    "a squared deviation": lambda z: (z - z.double().mean()) ** 2,
}
_HALF = torch.tensor([0.5, 0.5])


def loaded(*values):
    stream = io.BytesIO()
    pickle.dump(values, stream)
    stream.seek(0)
    return pickle.load(stream)


def in_place(z):
    count = z.sum().double()
    count -= z[0]
    return count


@pytest.mark.parametrize("function", LOST_JOINTS.values(), ids=LOST_JOINTS)
def test_a_merged_value_is_not_combined_with_its_draws(function):
    with pytest.raises(TypeError, match=LOST):
        plain(function(binary()))


# What needs no joint distribution, or has one.
EXACT = {
    "linear": lambda z: 2.0 * z.sum() - z[0] - z[1:].sum(),
    "in place": lambda z: 0.5 * in_place(z),
    "a mean and an element": lambda z: z - z.double().mean(),
    "another element": lambda z: ((z[:7].sum() == 3) & (z[7] == 1)).double(),
    "other elements": lambda z: ((z[:4].sum() == 2) & (z[4:].sum() == 1)).double(),
    "itself": lambda z: square_of(z.sum()).double(),
    "its own copies": lambda z: same_count(z.sum()).double(),
    "a function of itself": lambda z: (z.sum() - 3).abs().double(),
    "beside each other": lambda z: 1.0 * torch.stack([z.sum(), z[0]]),
    "compared beside each other": lambda z: (
        torch.stack([z.sum(), 3 * z[0]]) == 3
    ).double(),
    "few elements": lambda z: (z[:4].sum() - z[0] == 1).double(),
    "running sums": lambda z: (z.cumsum(0) == 2).double(),
    "a sum of sums": lambda z: (z[:7].sum() + z[7:].sum() == 3).double(),
    "a part with the other part": lambda z: (
        (z.reshape(2, 4).sum(-1) - z.reshape(2, 4).flip(0)[:, 0]) == 2
    ).double(),
}


def square_of(count):
    return count * count.expand(2, 3)


def same_count(count):
    return torch.stack([count, count - 1]).diff() == -1


@pytest.mark.parametrize("function", EXACT.values(), ids=EXACT)
def test_what_needs_no_lost_joint_distribution_is_exact(function):
    result = plain(function(binary())).double().numpy()
    assert_exact(result, enumerated(function))


def test_a_batch_knows_which_elements_each_sum_has():
    probs = np.random.default_rng(1).uniform(0.1, 0.9, (3, N))
    z = binary(probs)
    totals = z.sum(-1)
    other = plain((totals.roll(1) - z[:, 0] == 2).double())
    for i in range(3):
        pmf = sum_distribution([*probs[i - 1]])
        expected = pmf[2] * (1 - probs[i, 0]) + pmf[3] * probs[i, 0]
        assert_exact(other[i].numpy(), expected)
    with pytest.raises(TypeError, match=LOST):
        plain(totals == z[:, 0])


def sum_distribution(probs):
    pmf = np.ones(1)
    for p in probs:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf


def test_many_steps_remember_their_draws():
    probs = np.full(400, 0.5)
    z = binary(probs)
    others = [binary(0.5, site=f"u_{i}") for i in range(40)]
    count = z[0]
    for i in range(1, 400):
        count = (count + z[i]).expand(1)[0]
    assert_exact(plain((count == 200).double()).numpy(), sum_distribution(probs)[200])
    with pytest.raises(TypeError, match=LOST):
        plain(count * z[0] == 200)
    free = others[0]
    for other in others[1:]:
        free = (free + other).exact()
    assert_exact(plain((free * z[0]).double()).numpy(), 10.0)
    with pytest.raises(TypeError, match=r"'u_0.* is relaxed.*share draws"):
        plain(free * others[0])


def test_values_of_more_than_one_function_remember_their_draws():
    rng = np.random.default_rng(3)
    weights = torch.as_tensor(rng.dirichlet(np.ones(40), 2).T)
    z = soft_index("z", torch.arange(40), weights)
    product = z[0] * z[1]  # 1,600 joint values
    assert_exact(
        plain((product == 12).double()).numpy(),
        sum(weights[i, 0] * weights[12 // i, 1] for i in (1, 2, 3, 4, 6, 12)).numpy(),
    )
    with pytest.raises(TypeError, match=LOST):
        plain(product == 2 * z[0])
    ordered = z.sort().values
    with pytest.raises(TypeError, match=LOST):
        plain(ordered[0] == ordered[1])


def test_a_picked_element_depends_on_what_it_may_be_and_on_the_index():
    z = binary()
    u = soft_index("u", torch.arange(3), torch.tensor([0.2, 0.3, 0.5]))
    picked = z[u]
    assert_exact(
        plain((picked + z[3] == 2).double()).numpy(),
        [0.2, 0.3, 0.5] @ _PROBS[:3] * _PROBS[3],
    )
    for other in (z[0], z[2], u, z.sum(), z[:4].prod()):
        with pytest.raises(TypeError, match="share draws"):
            plain(picked == other)
    rows = binary(np.random.default_rng(2).uniform(0.1, 0.9, (2, 3)))
    v = soft_index("v", torch.arange(3), torch.full((3, 2), 1 / 3))
    own = rows[torch.arange(2), v]
    assert plain((own.flip(0) == rows[:, 0]).double()).shape == (2,)
    with pytest.raises(TypeError, match="share draws"):
        plain(own == rows[:, 0])


def test_parameters_and_observations_that_share_draws_are_refused():
    from pyro_concrete.soft_index.parameters import (
        with_known_parameters,
        with_soft_value,
    )

    z = binary()
    fn = with_known_parameters(dist.Binomial(z.sum(), torch.tensor(0.5)))
    fn = with_soft_value(fn, z[0], "x")
    with pytest.raises(TypeError, match=LOST):
        fn.log_prob(torch.tensor(0.0))


# --- values that are known by their mean only ---------------------------------------


def large_count(site="n"):
    values = torch.arange(600)
    return soft_index(site, values, torch.full((600, 3), 1 / 600)).sum()


ROUNDED_MEANS = {
    "clamp": lambda n: n.clamp(max=10),
    "clamp_min": lambda n: n.clamp_min(10),
    "clip": lambda n: torch.clip(n, 0, 10),
    "maximum": lambda n: torch.maximum(n, torch.tensor(10)),
    "max": lambda n: torch.max(n, torch.tensor(10)),
    "minimum": lambda n: torch.minimum(torch.tensor(10), n),
    "fmax": lambda n: torch.fmax(n, torch.tensor(10)),
    "relu": lambda n: torch.relu(n - 900),
    "abs": lambda n: abs(n - 900),
    "sign": lambda n: torch.sign(n - 900),
    "clamp of a float": lambda n: (1.0 * n).clamp(max=10.0),
    "maximum of a float": lambda n: torch.maximum(n.double(), torch.tensor(10.0)),
    "relu of a float": lambda n: torch.relu(n - 900.0),
    "hardtanh": lambda n: torch.nn.functional.hardtanh(n.double(), 0.0, 10.0),
    "a condition": lambda n: torch.where(n > 10, 1.0, 0.0),
}


@pytest.mark.parametrize("function", ROUNDED_MEANS.values(), ids=ROUNDED_MEANS)
def test_no_mean_of_a_count_is_compared(function):
    count = large_count()
    assert_exact(plain(0.5 * count - 1).numpy(), 0.5 * 3 * 299.5 - 1)
    with pytest.raises(TypeError, match="'n' is relaxed"):
        plain(function(count))


def test_networks_compare_averages():
    table = torch.tensor([-1.0, 2.0])
    x = torch.softmax(table[binary()], -1)
    assert_exact(plain(torch.relu(x - 0.1)).numpy(), torch.relu(plain(x) - 0.1).numpy())


# --- writing ------------------------------------------------------------------------


def pairs(z, u):
    """Two places for each pair of elements, which the other pair has in reverse."""
    return 2 * z + u


def test_writing_at_places_that_share_draws_is_right_or_refused():
    weights = np.random.default_rng(4).dirichlet(np.ones(9), 5).T
    z = soft_index("z", torch.arange(9), torch.as_tensor(weights))
    for index in ((z, z.flip(0)), (z, z.roll(1)), (z, z[0].expand(5))):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            torch.zeros(9, 9).index_put(index, torch.arange(5.0))
    u = soft_index("u", torch.arange(9), torch.as_tensor(weights[:, ::-1].copy()))
    values = torch.arange(1.0, 6.0)
    written = plain(torch.zeros(9, 9).index_put((z, u), values)).numpy()
    expected = np.zeros((9, 9))
    for i in range(5):
        hit = np.outer(weights[:, i], weights[:, 4 - i])
        expected = expected * (1 - hit) + hit * (i + 1)
    assert_exact(written, expected)
    merged = z.cumsum(0).clamp(max=8)
    with pytest.raises(TypeError, match="'z' is relaxed"):
        torch.zeros(9).scatter(0, merged, values)


# --- elements of the same draws -----------------------------------------------------

_TABLE = torch.as_tensor(np.random.default_rng(5).normal(size=(2, 3)))
_ROUNDED = (2 * _TABLE).round()

OF_THE_SAME_DRAWS = {
    "sum": lambda z: (_ROUNDED[z].sum(-1) > 0).double(),
    "sum, kept": lambda z: (_ROUNDED[z].sum(-1, keepdim=True) > 0).double(),
    "sum of a float": lambda z: (_TABLE[z].sum(-1) > 0.3).double(),
    "sum of truths": lambda z: ((_TABLE[z] > 0).sum(-1) == 2).double(),
    "sum of the first": lambda z: _TABLE[z][None].expand(2, -1, 3).sum((0, 2)) > 0,
    "mean": lambda z: (_TABLE[z].mean(-1) > 0.1).double(),
    "running sum": lambda z: (_TABLE[z].cumsum(-1) > 0.1).double(),
    "product": lambda z: _TABLE[z].prod(-1),
    "product, kept": lambda z: _TABLE[z].prod(-1, keepdim=True),
    "running product": lambda z: (_TABLE[z].cumprod(-1) > 0.1).double(),
    "largest": lambda z: _TABLE[z].amax(-1),
    "largest, kept": lambda z: _TABLE[z].amax(-1, keepdim=True) * 2,
    "smallest of integers": lambda z: 1.0 * (z[:, None] + torch.arange(3)).amin(1),
    "all": lambda z: (_TABLE[z] > -0.5).all(-1).double(),
    "any, kept": lambda z: (_TABLE[z] > 0.5).any(-1, keepdim=True).double(),
    "normalized": lambda z: _TABLE[z].exp() / _TABLE[z].exp().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("function", OF_THE_SAME_DRAWS.values(), ids=OF_THE_SAME_DRAWS)
def test_elements_of_the_same_draws_are_combined(function):
    probs = _PROBS[:4]
    result = plain(function(binary(probs)))
    expected = function(torch.arange(4) % 2)
    assert result.shape == expected.shape
    assert_exact(result.double().numpy(), enumerated(function, probs))


def test_a_sum_of_many_draws_of_many_values_is_not_compared_with_one_of_them():
    z = soft_index("z", torch.arange(4), torch.full((4, 20), 0.25))
    with pytest.raises(TypeError, match=LOST):
        z.sum() == z[0]  # noqa: B015
