"""What torch programs compute with soft integers, against all of their values.

The expected value is the mean of the discrete results over every joint value of the
elements, which are independent; at one-hot probabilities it is the discrete result.
"""

import itertools
import math
import subprocess
import sys
import textwrap

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asserts import assert_exact
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from scipy import stats
from torch.utils.checkpoint import checkpoint

from pyro_concrete import AutoConcrete, relax
from pyro_concrete.soft_index import SoftIndex, plain, soft_index

K, N = 3, 3
_WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(K), N).T
_TABLE = torch.tensor([0.5, -1.0, 2.5], dtype=torch.float64)
_VALUES = [*itertools.product(range(K), repeat=N)]
_BINS = torch.tensor([0.5, 1.5])
inf, nan = math.inf, math.nan


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def soft(weights=_WEIGHTS, site="z"):
    weights = torch.as_tensor(weights)
    return soft_index(site, torch.arange(len(weights)), weights)


def corner(values, size=K):
    return soft(np.eye(size)[np.asarray(values)].T.astype(float))


def assert_is_enumerated(function, exact_inside=True):
    """Compare a function of a vector with its discrete results, and their mean."""
    results = [function(torch.tensor(v)) for v in _VALUES]
    for values, expected in list(zip(_VALUES, results, strict=True))[::5]:
        result = function(corner(values))
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        assert_exact(plain(result).numpy(), expected.numpy())
    if exact_inside:
        probabilities = [
            math.prod(_WEIGHTS[k, i] for i, k in enumerate(v)) for v in _VALUES
        ]
        stacked = np.stack([x.double().numpy() for x in results])
        mean = np.tensordot(probabilities, stacked, 1)
        assert_exact(plain(function(soft())).double().numpy(), mean)


# --- whole numbers, whatever their type ---------------------------------------------

WHOLE = {
    "float minus integer": lambda z: _TABLE[(2.0 - z).long()],
    "ones minus integer": lambda z: _TABLE[(2 * torch.ones(()) - z).long()],
    "times a float": lambda z: _TABLE[(z * 1.0).long()],
    "half of it": lambda z: torch.where(z / 2 == 1, 3.0, 1.0),
    "double of it": lambda z: torch.where(2.0 * z == 4, 3.0, 1.0),
    "a float condition": lambda z: torch.where(
        (1.0 - (z == 1).double()).bool(), 3.0, 1.0
    ),
    "rounded": lambda z: _TABLE[(0.6 * z).round().long()],
    "floored": lambda z: (0.7 * z).floor(),
    "compared after a function": lambda z: 1.0 * (torch.exp(0.5 * z) > 1.5),
    "compared after a lookup": lambda z: torch.where(_TABLE[z] > 0, 1.0, _TABLE[z]),
    "cast of a lookup": lambda z: _TABLE[z].long(),
    "sum to float": lambda z: 1.0 * (z.sum().to(torch.float64) == 2),
    "bucketize": lambda z: _TABLE[torch.bucketize(z, _BINS)],
    "searchsorted": lambda z: _TABLE[torch.searchsorted(_BINS, 1.0 * z)],
    "quantized": lambda z: torch.bucketize(_TABLE[z], _BINS),
    "square of a float": lambda z: (0.5 * z) ** 2,
    "product of functions": lambda z: _TABLE[z] * (1.5 - z).exp(),
    "sigmoid of a lookup": lambda z: torch.sigmoid(_TABLE[z]),
    "in place": lambda z: in_place(1.0 * z),
}


def in_place(x):
    x += 1
    x.mul_(0.5)
    return torch.where(x > 0.6, x, 0.0)


@pytest.mark.parametrize("function", WHOLE.values(), ids=WHOLE.keys())
def test_floats_of_integers_are_as_exact_as_integers(function):
    assert_is_enumerated(function)


# Functions of several positions, some of which depend on the same elements.
OF_ALL = {
    "a product with itself": lambda z: torch.einsum("...i,...i->...", z, z),
    "a product with its float": lambda z: torch.einsum("i,i->", 1.0 * z, z.double()),
    "a matrix with itself": lambda z: torch.tensordot(z[:, None], z[None], 1),
    "a product of chains": lambda z: torch.linalg.multi_dot(
        [z[None].double(), z[:, None].double()]
    ),
    "the largest": lambda z: z.max(),
    "the largest float": lambda z: (z + 0.0).max(),
    "the largest of functions": lambda z: (_TABLE[z].tanh()).amax(-1),
    "the smallest, and where": lambda z: z.min(0).indices,
    "the place of the largest": lambda z: (_TABLE * z).argmax(-1),
    "in order": lambda z: (2 - z).sort().values,
    "softmax of whole numbers": lambda z: (z * 1.0).softmax(-1),
    "logsumexp of whole numbers": lambda z: (
        torch.nn.functional.pad(1 - z, (1, 0)).double().logsumexp(-1)
    ),
    "logsumexp of whole choices": lambda z: torch.where(z > 0, 2.0, 1.0).logsumexp(-1),
    "logsumexp of what is written": lambda z: (
        torch.zeros(3).scatter(0, z[0], 1.0).logsumexp(0)
    ),
    "variance of whole numbers": lambda z: z.double().var(-1),
    "any of shared elements": lambda z: (z.sum().tile(2) == (z[1:] == z[:-1])).any(),
    "the largest of shared elements": lambda z: (z[:1] != 2 * z - 1).double().amax(0),
    "written by index": lambda z: (2.0 + torch.zeros(4).scatter(0, z, 1.0)).log(),
    "written by a scalar": lambda z: torch.zeros(3).scatter(0, z[0], 1.0),
    "written twice by one draw": lambda z: torch.zeros(5).scatter(
        0, z[0] * z[0].expand(2), 1.0
    ),
    "picked by a scalar": lambda z: _TABLE.gather(0, z[0]),
    "a table at its own elements": lambda z: z[z],
    "constants beside it": lambda z: (
        torch.stack([torch.where(torch.tensor(False), z.prod(), 1)] * 2) == z[:2]
    ),
    "shifted by it": lambda z: (2 << z) + (8 >> z),
    "a place for NaN": lambda z: torch.searchsorted(_BINS.double(), 0 / z),
    "a mean error": lambda z: torch.nn.functional.mse_loss(1.0 * z, 1.0 * z.flip(0)),
}


@pytest.mark.parametrize("function", OF_ALL.values(), ids=OF_ALL)
def test_functions_of_several_positions_are_exact(function):
    assert_is_enumerated(function)


def test_too_many_joint_values_are_refused():
    weights = np.random.default_rng(4).dirichlet(np.ones(K), 40).T
    z = soft(weights)
    for use in (
        lambda: (1.0 * z).softmax(-1),
        lambda: torch.einsum("i,i->", z, z),
        lambda: z.argmax(),
        lambda: (1.0 * z).logsumexp(0),
        lambda: z.sort(),
        lambda: torch.zeros(K).scatter(0, torch.cat([z, z]), 1.0),
        lambda: torch.zeros(K).scatter(0, z, 1.0 * z),
    ):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            use()
    product = torch.einsum("i,i->", z, soft(weights, "u"))
    mean = torch.as_tensor(weights).T @ torch.arange(3.0)
    assert_exact(plain(product).numpy(), (mean @ mean).numpy())


def test_the_largest_of_many_elements_is_exact():
    weights = np.random.default_rng(5).dirichlet(np.ones(K), 40).T
    up_to = weights.cumsum(0).prod(-1)
    expected = np.diff(up_to, prepend=0.0) @ np.arange(K)
    assert_exact(plain(soft(weights).max()).numpy(), expected)
    assert_exact(plain((1.0 * soft(weights)).amax()).numpy(), expected)


def test_what_is_a_function_of_averages_is_refused_where_it_is_compared():
    x = torch.softmax(_TABLE[soft()], -1)
    assert_exact((2 * x).numpy(), 2 * torch.softmax(plain(_TABLE[soft()]), -1).numpy())
    for use in (
        lambda x: torch.where(x > 0.5, 1.0, 0.0),
        lambda x: _TABLE[x.argmax(-1)],
        lambda x: x.long(),
        lambda x: bool((x > 0.5).all()),
    ):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            use(x)
    torch.distributions.Normal(0.0, x)  # validation is no use
    assert type(plain(x)) is torch.Tensor


def test_a_tensor_that_changed_is_not_read_again():
    offset = torch.zeros(N)
    x = offset - 1.0 * soft()
    offset += 1
    with pytest.raises(RuntimeError, match=r"'z' is relaxed.*changed in place"):
        torch.where(x > -1, 1.0, 0.0)


# --- one draw, and several ----------------------------------------------------------

IDENTITY = {
    "expanded": lambda z: z * z.expand(2, 3),
    "expanded first": lambda z: z.expand(2, 3) * z,
    "less its expansion": lambda z: z - torch.broadcast_to(z, (2, 3)),
    "lookup of both": lambda z: torch.arange(5.0)[z + z.expand(2, 3)],
    "where of both": lambda z: torch.where(z == z.expand(2, 3), z, 7),
    "slice": lambda z: 1.0 * (z[1:] == z.narrow(0, 1, 2)),
    "neighbors": lambda z: 1.0 * (z[1:] == z[:-1]),
    "stack": lambda z: 1.0 * (torch.stack([z, 2 - z])[0] == z),
    "stack of complements": lambda z: 1.0 * (torch.stack([z, 2 - z]).sum(0) == 2),
    "concatenated": lambda z: 1.0 * (torch.cat([z, z])[3:] == z),
    "all pairs": lambda z: 1.0 * (z[:, None] == z),
    "products of pairs": lambda z: 1.0 * (z[:, None] * z),
    "cast": lambda z: 1.0 * (z.double().long() == z),
    "clone": lambda z: 1.0 * (z.clone() == z),
    "permuted": lambda z: 1.0 * (z.flip(0).roll(1) == z),
    "chosen by data": lambda z: (
        1.0 * (torch.where(torch.tensor([True, False, True]), z, 0) == z)
    ),
    "compared twice": lambda z: 1.0 * (z[:, None] == torch.tensor([0, 2])).any(-1),
    "isin": lambda z: 1.0 * torch.isin(z, torch.tensor([0, 2])),
    "all of its own": lambda z: 1.0 * (z[:, None] >= torch.tensor([0, 1])).all(-1),
    "sum of an expansion": lambda z: 1.0 * (z.expand(2, 3).sum(0) == 4),
    "matrix product": lambda z: 1.0 * (z @ z),
    "meshgrid": lambda z: 1.0 * torch.eq(*torch.meshgrid(z, z, indexing="ij")),
}


@pytest.mark.parametrize("function", IDENTITY.values(), ids=IDENTITY.keys())
def test_an_element_is_one_draw_wherever_it_is(function):
    assert_is_enumerated(function)


# --- values of probability zero -----------------------------------------------------

UNDEFINED = {
    "quotient": lambda z: torch.where(z > 0, z / z, 0.0),
    "logarithm": lambda z: torch.log(z - 1),
    "root": lambda z: torch.sqrt(z - 1),
    "arcsine": lambda z: torch.asin(z - 1.5),
    "logit": lambda z: torch.logit(z / 2),
    "xlogy": lambda z: torch.xlogy(z, z - 1),
    "remainder": lambda z: 5 % z,
    "integer quotient": lambda z: 5 // z,
    "float remainder": lambda z: torch.remainder(5.0, z),
    "reciprocal": lambda z: torch.where(z > 0, 1 / z, 0.0),
    "table": lambda z: torch.tensor([nan, -inf, 1.0])[z],
    "index": lambda z: torch.tensor([3.0, 4.0])[z - 1],
    "imputed": lambda z: torch.where(z != 2, -inf, _TABLE[z]),
}


@pytest.mark.parametrize("function", UNDEFINED.values(), ids=UNDEFINED.keys())
@pytest.mark.parametrize("value", [1, 2])
def test_values_of_probability_zero_do_not_matter(function, value):
    weights = torch.eye(K)[value].requires_grad_()
    result = plain(function(soft(weights)))
    expected = function(torch.tensor(value))
    np.testing.assert_allclose(result.detach().double(), expected.double())
    if result.requires_grad:
        (gradient,) = torch.autograd.grad(result, weights)
        assert gradient.isfinite().all()


def test_gradients_of_parameters_are_finite_beside_undefined_values():
    scale = torch.tensor(0.5, requires_grad=True)
    z = corner(2)
    for function, slope in (
        (lambda z: torch.sqrt(z - 3 * scale), -1.5 / math.sqrt(0.5)),
        (lambda z: torch.log(z - 2 * scale), -2.0),
        (lambda z: (z - 2 * scale) ** 0.5, -1.0),
    ):
        (gradient,) = torch.autograd.grad(plain(function(z)), scale)
        assert_exact(gradient.numpy(), slope)


def test_a_comparison_with_itself_finds_the_values_that_are_nan():
    x = torch.log1p(1.0 - soft([0.2, 0.3, 0.4, 0.1]))  # log 2, 0, -inf, NaN
    assert_exact(plain(torch.where(x != x, 1.0, 0.0)).numpy(), 0.1)


@pytest.mark.parametrize("table", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weights", ["float64", "float32"])
def test_infinities_of_every_precision(table, weights):
    torch.set_default_dtype(torch.float32)
    table = torch.tensor([-inf, 1.0, nan], dtype=getattr(torch, table))
    for value in range(3):
        z = soft(torch.eye(3, dtype=getattr(torch, weights))[value])
        for result in (
            table[z],
            table[torch.stack([z, z])][0],
            torch.where(z == 0, table[0], torch.where(z == 1, table[1], table[2])),
        ):
            assert result.dtype is table.dtype
            np.testing.assert_array_equal(plain(result).float(), table[value].float())
    inside = soft(torch.tensor([0.5, 0.25, 0.25], dtype=getattr(torch, weights)))
    assert plain(table[:2][inside.clamp(max=1)]).isfinite()


def test_infinity_does_not_leak_where_it_is_not_selected():
    z = soft([0.5, 0.25, 0.25])
    result = torch.where(z > 0, 1 / z, 0.0)
    assert_exact(plain(result).numpy(), 0.25 + 0.25 / 2)


def test_a_table_is_read_in_its_own_precision():
    torch.set_default_dtype(torch.float32)
    table = torch.tensor([5.0, 16777217.0], dtype=torch.float64)
    z = soft(torch.tensor([0.0, 1.0]))
    assert plain(table[z]).item() == 16777217.0
    assert plain(table.gather(0, z.reshape(1))).item() == 16777217.0


# --- counts -------------------------------------------------------------------------


def poisson_binomial(probs):
    pmf = np.ones(1)
    for p in probs:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf


@pytest.mark.parametrize("size", [5, 20, 211])
def test_a_sum_of_bits_has_the_poisson_binomial_distribution(size):
    probs = np.random.default_rng(1).uniform(0.02, 0.98, size)
    pmf = poisson_binomial(probs)
    bits = soft(np.stack([1 - probs, probs]))
    for few in (bits, bits.double(), 1.0 - (1 - bits)):
        count = few.sum(-1)
        more = plain((count > size // 3).double())
        assert_exact(more.numpy(), pmf[size // 3 + 1 :].sum())
        assert_exact(plain(0.5 * count).numpy(), 0.5 * probs.sum())
        values = np.arange(size + 1)
        assert_exact(plain(torch.exp(-count)).numpy(), pmf @ np.exp(-values))
    left = size - bits.sum() - bits[1:].sum()
    assert_exact(plain(left / 2).numpy(), size / 2 - probs.sum() + probs[0] / 2)
    if size == 5:  # 32 joint values
        pmf = poisson_binomial(probs[1:])
        expected = probs[0] * pmf[2]
        assert_exact(plain((left == 0).double()).numpy(), expected)
    else:
        with pytest.raises(TypeError, match=r"'z' is relaxed.*share draws"):
            plain((left == 0).double())


def test_sums_of_sites_are_convolved():
    rng = np.random.default_rng(2)
    pmfs = [rng.dirichlet(np.ones(12)) for _ in range(9)]
    count = 0
    expected = np.ones(1)
    for i, pmf in enumerate(pmfs):
        z = soft(pmf, site=f"z_{i}")
        count = count + z if i % 2 else count - z
        expected = np.convolve(expected, pmf if i % 2 else pmf[::-1])
    least = -11 * 5
    for value in (-20, 0, 7):
        hit = plain((count == value).double())
        assert_exact(hit.numpy(), expected[value - least])


def test_running_counts_are_exact():
    probs = np.array([0.2, 0.5, 0.7, 0.4, 0.9, 0.1, 0.3, 0.6])
    bits = soft(np.stack([1 - probs, probs]))
    found = plain((bits.cumsum(0) == 2).double())
    expected = [poisson_binomial(probs[:n])[2] if n > 1 else 0.0 for n in range(1, 9)]
    assert_exact(found.numpy(), expected)


def test_counts_of_data_are_exact():
    probs = np.array([[0.2, 0.5], [0.7, 0.4], [0.9, 0.1]])
    bits = soft(np.stack([1 - probs, probs]))
    data = torch.tensor([[3, 5], [4, 1], [0, 2]])
    found = plain(((data - bits).sum(0) == 6).double())
    expected = [
        poisson_binomial(probs[:, 0])[1],
        poisson_binomial(probs[:, 1])[2],
    ]
    assert_exact(found.numpy(), expected)


def test_the_probabilities_of_a_count_have_gradients():
    probs = torch.tensor([0.2, 0.5, 0.7, 0.4], requires_grad=True)
    bits = soft(torch.stack([1 - probs, probs]))
    hit = plain((bits.sum() == 1).double())
    (gradient,) = torch.autograd.grad(hit, probs)
    step = 1e-6
    for i in range(4):
        moved = probs.detach().numpy() + step * np.eye(4)[i]
        back = probs.detach().numpy() - step * np.eye(4)[i]
        slope = (poisson_binomial(moved)[1] - poisson_binomial(back)[1]) / (2 * step)
        assert abs(float(gradient[i]) - slope) < 1e-8


# --- rules --------------------------------------------------------------------------

RULES = {
    "index_select of a scalar": lambda z: _TABLE.index_select(0, z[0]),
    "gather of a part": lambda z: _TABLE.expand(4, 3).gather(1, z[:2].reshape(2, 1)),
    "take_along_dim of all": lambda z: _TABLE.take_along_dim(z),
    "scatter of a part": lambda z: torch.zeros(3, 3).scatter(1, z[:2, None], 1.0),
    "scatter_add of a part": lambda z: torch.zeros(4, 3).scatter_add(
        0, z[:2].reshape(1, 2), torch.ones(2, 2)
    ),
    "scatter_add of counts": lambda z: torch.zeros(3, dtype=torch.long).scatter_add(
        0, z, torch.ones_like(z)
    ),
    "column_stack": lambda z: torch.column_stack([z, 2 - z]) * 1.0,
    "moveaxis": lambda z: torch.moveaxis(z[:, None], 0, 1) * 1.0,
    "bincount": lambda z: torch.bincount(z, minlength=3) * 1.0,
    "bincount of weights": lambda z: torch.bincount(z, _TABLE, 3),
    "count_nonzero": lambda z: 1.0 * torch.count_nonzero(z),
    "index_put": lambda z: torch.zeros(3).index_put((z[0],), torch.tensor(2.0)),
    "index_put of more": lambda z: torch.zeros(3).index_put(
        (z,), torch.ones(3), accumulate=True
    ),
    "written by index": lambda z: written_by_index(z),
    "written by mask": lambda z: written_by_mask(z),
    "written into it": lambda z: written_into(z.clone()),
    "cross_entropy": lambda z: torch.nn.functional.cross_entropy(
        _TABLE.expand(3, 3) * torch.arange(3.0)[:, None], z
    ),
    "nll_loss": lambda z: torch.nn.functional.nll_loss(
        _TABLE.expand(3, 3), z, reduction="none"
    ),
    "int32": lambda z: z.int() + 1,
    "int32 scalar": lambda z: 2 - z.int()[0],
    "float32 scalar": lambda z: z[0] * torch.tensor(1.0, dtype=torch.float32) == 1,
    "sum of bool": lambda z: (z == 1).sum(0, keepdim=True),
    "prod": lambda z: 1.0 * z.prod(),
    "diff": lambda z: 1.0 * (z.diff() == 1),
    "trace": lambda z: 1.0 * torch.trace(z.expand(3, 3)),
    "outer": lambda z: 1.0 * torch.outer(z, z),
    "diagonal matrix": lambda z: 1.0 * torch.diag(z),
    "mean of truths": lambda z: (z == 1).double().mean(),
    "binary cross entropy": lambda z: (
        torch.nn.functional.binary_cross_entropy_with_logits(
            _TABLE, (z == 1).double(), reduction="none"
        )
    ),
}


def written_by_index(z):
    x = torch.zeros(3, 3)
    x[torch.arange(3), z] = 1.0
    return x


def written_by_mask(z):
    x = torch.zeros(3, 3)
    x[z == 2] = 4.0
    return x


def written_into(z):
    z[1] = 2
    return 1.0 * z


@pytest.mark.parametrize("function", RULES.values(), ids=RULES.keys())
def test_rules_of_functions(function):
    assert_is_enumerated(function)


# --- distributions inside of a model ------------------------------------------------

SCORES = {
    "Normal": lambda d, z: d.Normal(0.3, 1.7).log_prob(z),
    "Poisson": lambda d, z: d.Poisson(torch.tensor(1.7)).log_prob(1.0 * z),
    "Binomial": lambda d, z: d.Binomial(3, torch.tensor(0.3)).log_prob(z),
    "NegativeBinomial": lambda d, z: d.NegativeBinomial(
        1.5, torch.tensor(0.3)
    ).log_prob(z),
    "GammaPoisson": lambda d, z: d.GammaPoisson(1.5, torch.tensor(0.3)).log_prob(z),
    "Categorical": lambda d, z: d.Categorical(logits=_TABLE).log_prob(z),
    "Bernoulli": lambda d, z: d.Bernoulli(logits=torch.tensor(0.4)).log_prob(
        (z == 1).double()
    ),
    "Geometric": lambda d, z: d.Geometric(torch.tensor(0.3)).log_prob(1.0 * z),
    "BetaBinomial": lambda d, z: d.BetaBinomial(1.5, torch.tensor(2.0), 3).log_prob(z),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_a_score_of_a_soft_value_is_averaged_over_its_values(score):
    assert_is_enumerated(lambda z: score(dist, z))
    if score is SCORES["Normal"]:
        means = [stats.norm.logpdf(k, 0.3, 1.7) for k in range(K)]
        found = plain(score(dist, soft())).numpy()
        assert_exact(found, np.array(means) @ _WEIGHTS)


# --- soft values and parameters of sites --------------------------------------------


def log_probs(program, point):
    """Log-probabilities of the sites of a relaxed program at a point."""
    relaxed = relax(program, 0.5)
    trace = poutine.trace(poutine.condition(relaxed, point)).get_trace()
    trace.compute_log_prob()
    sites = trace.nodes.items()
    return {k: s["log_prob"] for k, s in sites if s["type"] == "sample"}, trace


def hard(value, size):
    return torch.where(torch.arange(size) == value, 0.0, -1e4)


def test_a_soft_observation_is_averaged_over_its_values():
    probs = np.array([0.2, 0.5, 0.3])

    def program():
        z = pyro.sample("z", dist.Categorical(torch.tensor(probs)))
        x = pyro.sample("x", dist.Normal(0.5, 2.0), obs=1.0 * z)
        n = pyro.sample("n", dist.Binomial(3, torch.tensor(0.3)), obs=z)
        with pyro.plate("rows", 2):
            c = pyro.sample("c", dist.Categorical(torch.tensor(probs)), obs=z)
        assert_exact(plain(1.0 * (n == z)).numpy(), 1.0)
        return x, c

    values = np.arange(3)
    expected = {
        "x": stats.norm.logpdf(values, 0.5, 2.0),
        "n": stats.binom.logpmf(values, 3, 0.3),
        "c": np.log(probs),
    }
    points = [(torch.log(torch.tensor(probs)), probs)]
    points += [(hard(k, 3), np.eye(3)[k]) for k in values]
    for point, weights in points:
        found, _ = log_probs(program, {"z_relaxed": point})
        for name, scores in expected.items():
            assert_exact(
                found[name].numpy(), np.full(found[name].shape, weights @ scores)
            )
        assert found["c"].shape == (2,)


def test_a_soft_vector_with_one_probability_is_no_observation():
    def program():
        with pyro.plate("rows", 3):
            z = pyro.sample("z", dist.Binomial(4, torch.tensor(0.5)))
        pyro.sample("x", dist.Multinomial(probs=torch.ones(3)), obs=z)

    with pytest.raises(TypeError, match=r"'z' is relaxed.*observing it at site 'x'"):
        relax(program, 0.5)()


STEPS, POPULATION = 10, 11


def epidemic(observed):
    beta = pyro.sample("beta", dist.LogNormal(0.0, 0.3))
    susceptible = torch.tensor(POPULATION - 1.0)
    infected = torch.tensor(1.0)
    for t in range(STEPS):
        risk = 1 - torch.exp(-beta * infected / POPULATION)
        risk = risk.clamp(1e-6, 1 - 1e-6)
        new = pyro.sample(f"new_{t}", dist.Binomial(susceptible, risk))
        gone = pyro.sample(f"gone_{t}", dist.Binomial(infected, torch.tensor(0.4)))
        susceptible = susceptible - new
        infected = infected + new - gone
        reported = dist.Binomial(new, torch.tensor(0.6))
        pyro.sample(f"y_{t}", reported, obs=observed[t])


def epidemic_guide(observed):
    rate = pyro.param("rate", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("beta", dist.Delta(rate))
    susceptible = torch.tensor(POPULATION - 1.0)
    infected = torch.tensor(1.0)
    unit = dist.constraints.unit_interval
    for t in range(STEPS):
        risk = pyro.param(f"risk_{t}", torch.tensor(0.2), constraint=unit)
        loss = pyro.param(f"loss_{t}", torch.tensor(0.4), constraint=unit)
        new = pyro.sample(f"new_{t}", dist.Binomial(susceptible, risk))
        gone = pyro.sample(f"gone_{t}", dist.Binomial(infected, loss))
        susceptible = susceptible - new
        infected = infected + new - gone


def test_an_epidemic_is_exact_at_corners():
    """Populations that latent counts leave are the total counts of the next."""
    pyro.set_rng_seed(0)
    blank = poutine.trace(relax(epidemic, 0.5)).get_trace(torch.zeros(STEPS))
    for seed in (0, 3):
        pyro.set_rng_seed(seed)
        drawn = poutine.trace(poutine.uncondition(epidemic)).get_trace(
            torch.zeros(STEPS)
        )
        values = {
            k: s["value"] for k, s in drawn.nodes.items() if s["type"] == "sample"
        }
        observed = torch.stack([values.pop(f"y_{t}") for t in range(STEPS)])
        point = {"beta": values["beta"]}
        for name, value in values.items():
            if name != "beta":
                size = blank.nodes[name + "_relaxed"]["value"].shape[-1]
                point[name + "_relaxed"] = hard(value, size)
        discrete = poutine.trace(poutine.condition(epidemic, values)).get_trace(
            observed
        )
        relaxed = poutine.condition(relax(epidemic, 0.5), point)
        relaxed = poutine.trace(relaxed).get_trace(observed)
        discrete.compute_log_prob()
        relaxed.compute_log_prob()
        for t in range(STEPS):
            own, expected = (x.nodes[f"y_{t}"]["log_prob"] for x in (relaxed, discrete))
            assert_exact(own.numpy(), expected.numpy())
            for name in (f"new_{t}", f"gone_{t}"):
                fn = discrete.nodes[name]["fn"]
                logits = relaxed.nodes[name + "_relaxed"]["fn"].logits
                support = np.arange(logits.shape[-1])
                pmf = stats.binom.pmf(support, int(fn.total_count), float(fn.probs))
                assert_exact(torch.softmax(logits, -1).numpy(), pmf)


@pytest.mark.slow
@pytest.mark.parametrize("make", [AutoConcrete, lambda _: relax(epidemic_guide, 2 / 3)])
def test_an_epidemic_trains(make):
    observed = torch.tensor([1.0, 2, 2, 1, 1, 0, 1, 0, 0, 0])
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model = relax(epidemic, 0.5)
    guide = make(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(observed) for _ in range(40)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_a_latent_count_has_the_mixture_over_a_soft_count():
    weights = np.array([0.1, 0.2, 0.3, 0.4])

    def program():
        n = pyro.sample("n", dist.Categorical(torch.tensor(weights)))
        pyro.sample("m", dist.Binomial(1.0 * n, torch.tensor(0.7)))

    _, trace = log_probs(program, {"n_relaxed": torch.log(torch.tensor(weights))})
    logits = trace.nodes["m_relaxed"]["fn"].logits
    pmfs = [stats.binom.pmf(np.arange(4), n, 0.7) for n in range(4)]
    assert_exact(torch.softmax(logits, -1).numpy(), weights @ pmfs)


def test_too_large_a_count_as_a_parameter_is_an_error_by_site():
    def program():
        with pyro.plate("rows", 600):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        pyro.sample("x", dist.Binomial(z.sum(), torch.tensor(0.5)))

    with pytest.raises(TypeError, match=r"'z' is relaxed"):
        relax(program, 0.5)()


def test_parameters_of_parts_of_a_distribution_are_their_means():
    locs = torch.tensor([[-1.0, 1.0], [0.5, 3.0]])

    def program():
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        parts = dist.Normal(locs[z], 1.0)
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)
        pyro.sample("x", mixture, obs=torch.tensor(0.3))

    for value in range(2):
        found, _ = log_probs(program, {"z_relaxed": hard(value, 2)})
        assert type(found["x"]) is torch.Tensor
        expected = np.log(stats.norm.pdf(0.3, locs[value], 1.0).mean())
        assert_exact(found["x"].numpy(), expected)


# --- transforms of torch ------------------------------------------------------------


def test_vmap_over_data_beside_a_soft_value():
    z = soft(_WEIGHTS[:, 0])
    data = torch.arange(K)
    for function in (lambda x: 1.0 * (z == x), lambda x: 1.0 * (z + x)):
        found = plain(torch.vmap(lambda x, f=function: plain(f(x)))(data))
        expected = [plain(function(x)) for x in data]
        assert_exact(found.numpy(), np.array([x.numpy() for x in expected]))


def test_vmap_over_a_soft_value_is_refused_by_name():
    z = soft()
    for function in (lambda z: z == 1, lambda z: z != 1, lambda z: z + 1):
        with pytest.raises(RuntimeError, match="'z' is relaxed"):
            torch.vmap(function)(z)
    with pytest.raises(TypeError, match="'z' is relaxed"):
        torch.vmap(lambda x: torch.where(x > 1, 1.0, 0.0))(1.0 * z)


def test_checkpoints_pass_soft_values_on():
    weights = torch.tensor(_WEIGHTS, requires_grad=True)

    def loss(z):
        return plain(_TABLE[z] * torch.exp(0.5 * z)).sum()

    again = checkpoint(loss, soft(weights), use_reentrant=False)
    (found,) = torch.autograd.grad(again, weights)
    (expected,) = torch.autograd.grad(loss(soft(weights)), weights)
    assert_exact(found.numpy(), expected.numpy())


COMPILED = """
    import warnings
    import torch
    from pyro_concrete.soft_index import plain, soft_index

    warnings.simplefilter("ignore")
    weights = torch.tensor([[0.1, 0.5], [0.2, 0.3], [0.7, 0.2]])
    table = torch.tensor([1.0, 5.0, -2.0])
    for function in (
        lambda z: table[z],
        lambda z: 1.0 * (z == 1),
        lambda z: table[z.unsqueeze(-1)],
        lambda z: torch.exp(-0.5 * z),
        lambda z: torch.where(z.sum(-1) > 2, 1.0, 0.0),
    ):
        def loss(weights):
            return plain(function(soft_index("z", torch.arange(3), weights))).sum()

        torch._dynamo.reset()
        compiled = torch.compile(loss, backend="eager")
        print(torch.allclose(compiled(weights), loss(weights)))
"""


@pytest.mark.slow
def test_losses_of_soft_values_compile():
    command = [sys.executable, "-c", textwrap.dedent(COMPILED)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["True"] * 5, result.stderr[-2000:]


# --- what is shown ------------------------------------------------------------------


def test_every_value_can_be_shown():
    z = soft()
    for value in (z, z.sum(), 1 - z, 1.5 * z, z == 1, _TABLE[z], z.sum() > 1):
        for text in (f"{value}", repr(value), str(value), f"{value:.3f}", f"{value}"):
            assert text
    assert "SoftIndex(site='z', shape=(3,), support=(3,))" in f"z = {z}"
    assert isinstance(z.clone(), SoftIndex)
