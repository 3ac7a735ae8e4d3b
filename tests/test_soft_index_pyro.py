"""Soft integers in torch: its own functions, and Pyro's indexing."""

import copy
import pickle

import numpy as np
import pytest
import torch
from asserts import assert_exact
from pyro.ops.indexing import Vindex
from torch.distributions import Normal
from torch.nn import functional

from pyro_concrete.soft_index import SoftIndex, SoftNumber, plain, soft_index

N, K = 5, 4
_RNG = np.random.default_rng(0)
_WEIGHTS = _RNG.dirichlet(np.ones(K), N).T
_TABLE = torch.tensor(_RNG.normal(size=(N, K, 3)))
_ROWS = torch.tensor(_RNG.normal(size=(K, 3)))


def soft(weights=_WEIGHTS, site="z"):
    return soft_index(site, torch.arange(K), torch.tensor(weights))


def hard(values):
    return soft(np.eye(K)[list(values)].T)


# Functions of a vector of integers, with the table's batch dimension beside it.
FUNCTIONS = {
    "gather": lambda z: _TABLE.gather(1, z[:, None, None].expand(N, 1, 3)),
    "gather along the last": lambda z: _TABLE[..., 0].gather(-1, z.unsqueeze(-1)),
    "take_along_dim": lambda z: _TABLE[..., 0].take_along_dim(z[:, None], -1),
    "take_along_dim of one row": lambda z: _ROWS[:, :1].T.take_along_dim(z[:, None], 1),
    "take": lambda z: _ROWS.take(z),
    "index_select": lambda z: _ROWS.index_select(0, z),
    "index_select of a column": lambda z: _TABLE.index_select(1, z),
    "embedding": lambda z: functional.embedding(z, _ROWS),
    "one_hot": lambda z: functional.one_hot(z, K).double(),
    "one_hot of the support": lambda z: functional.one_hot(z % K, K) * 2.0,
    "scatter": lambda z: torch.zeros(N, K).double().scatter(-1, z[:, None], 1.0),
    "scatter_": lambda z: torch.zeros(N, K).double().scatter_(-1, z[:, None], 1.0),
    "scatter_ of a source": lambda z: (
        torch.zeros(N, K).double().scatter_(-1, z[:, None], _ROWS[0, :1].expand(N, 1))
    ),
    "masked_fill": lambda z: _ROWS[:, 0].sum().expand(N).masked_fill(z == 1, 0.0),
    "write by mask": lambda z: write(z == 2),
    "arange and index": lambda z: _TABLE[torch.arange(N), z],
    "index and slice": lambda z: _TABLE[:, z, 1:],
    "index and number": lambda z: _TABLE[:, z, 1],
    "apart": lambda z: _TABLE[z, :, torch.tensor(1)],
    "apart in arrays": lambda z: _TABLE[z, :, torch.tensor([0, 1, 2, 0, 1])],
    "list beside it": lambda z: _ROWS[z, [0, 1, 2, 0, 1]],
    "boolean mask of data": lambda z: z[torch.tensor([True, False, True, True, False])],
    "Vindex": lambda z: Vindex(_ROWS)[z, :],
    "Vindex of a batch": lambda z: Vindex(_TABLE)[..., z, :],
    "Vindex of enumerated": lambda z: Vindex(_ROWS)[z, torch.arange(3).reshape(3, 1)],
    "Vindex apart": lambda z: Vindex(_TABLE)[z[:, None], :, torch.arange(3)],
    "of long": lambda z: _ROWS[z.double().long()],
    "to bool": lambda z: torch.where(z.bool(), 1.0, 2.0),
    "to": lambda z: z.to(torch.float64) * 0.5,
    "type_as": lambda z: z.type_as(_ROWS) * 0.5,
    "linear": lambda z: functional.linear(z.double(), _TABLE[:, :N, 0].T),
    "einsum": lambda z: torch.einsum("n,nk->k", z.double(), _TABLE[..., 0]),
    "lgamma": lambda z: torch.lgamma(z + 1),
    "clamp": lambda z: _ROWS[z.clamp(max=2)],
    "transposed": lambda z: _ROWS[z.reshape(1, N).T],
    "split": lambda z: _ROWS[z.split([2, 3])[1]],
    "iterated": lambda z: sum(_ROWS[x] for x in z),
    "repeated": lambda z: _ROWS[z.repeat(2)],
    "rolled": lambda z: 1.0 * (z == z.roll(1)),
    "interleaved": lambda z: _ROWS[z.repeat_interleave(2)],
    "concatenated with data": lambda z: _ROWS[torch.cat([z, torch.tensor([0, 3])])],
    "of a soft array": lambda z: _ROWS[z[z]],
    "zeros_like": lambda z: torch.zeros_like(z).double(),
    "negated": lambda z: 1.0 * ~(z == 1),
    "xor": lambda z: 1.0 * ((z == 1) ^ (z > 0)),
}


def write(mask):
    x = torch.ones(N).double()
    x[mask] = 3.0
    return x


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_at_a_vertex_a_function_is_torch_s_own(function):
    for values in ([0, 1, 2, 3, 1], [3, 3, 0, 1, 2]):
        result = plain(function(hard(values)))
        expected = function(torch.tensor(values))
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype or not expected.is_floating_point()
        assert_exact(result.numpy(), expected.numpy())


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_gradients_reach_the_weights(function):
    weights = torch.tensor(_WEIGHTS, requires_grad=True)
    z = soft_index("z", torch.arange(K), weights)
    result = plain(function(z)).double().sum()
    if function is FUNCTIONS["zeros_like"]:
        assert not result.requires_grad
    else:
        (gradient,) = torch.autograd.grad(result, weights)
        assert gradient.abs().sum() > 0


def test_float_bits_are_no_indices_as_in_torch():
    bits = soft_index("b", torch.arange(2.0), torch.full((2, 3), 0.5))
    with pytest.raises(IndexError, match=r"'b'.*z\.long\(\)"):
        _ROWS[bits]
    assert _ROWS[bits.long()].shape == (3, 3)


def test_an_index_out_of_range_is_an_error_as_in_torch():
    with pytest.raises(IndexError):
        _ROWS[soft() + 1]


def test_no_rows_give_no_rows():
    empty = soft(np.zeros((K, 0)))
    assert _ROWS[empty].shape == (0, 3)
    assert torch.where(empty == 1, 1.0, 0.0).shape == (0,)
    assert _TABLE[:0][torch.arange(0), empty].shape == (0, 3)


def test_what_writes_a_soft_value_into_integers_is_refused():
    counts = torch.zeros(N, dtype=torch.long)
    for use in (
        lambda z: counts.copy_(z),
        lambda z: counts.__setitem__(slice(None), z),
        lambda z: counts.scatter_(0, z, 1),
        lambda z: torch.softmax(z, 0),
        lambda z: z.unique(),
        lambda z: functional.one_hot(z),
        lambda z: z.bincount(minlength=2),
    ):
        with pytest.raises(TypeError, match=r"'z' is relaxed"):
            use(soft())


def test_a_sum_of_too_many_values_is_guarded():
    """Arithmetic sees its mean, and what needs the integer is refused by name."""
    weights = np.random.default_rng(4).dirichlet(np.ones(K), 400).T
    total = soft(weights).sum()
    mean = (weights * np.arange(K)[:, None]).sum()
    assert isinstance(total, SoftNumber)
    assert isinstance(2 * total - 1, SoftNumber)
    assert_exact(plain(2 * total - 1).numpy(), 2 * mean - 1)
    damped = plain((0.01 * total).exp())
    assert_exact(damped.numpy(), np.exp(0.01 * mean), "float32")
    for use in (
        lambda s: s == 3,
        lambda s: s // 2,
        lambda s: _ROWS[s],
        lambda s: s.bool(),
        lambda s: (0.5 * s).long(),
        lambda s: torch.where(0.5 * s > 1, 1.0, 0.0),
        bool,
    ):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            use(total)


def test_networks_see_the_mean():
    layer = torch.nn.Linear(N, 2).double()
    result = layer(soft().double())
    for use in (
        lambda x: plain(x > 0),
        lambda x: torch.where(x == 0, 1.0, 0.0),
        lambda x: x.round(),
        lambda x: x.long(),
        lambda x: x.argmax(),
        lambda x: x.max(),
        lambda x: x[x > 0],
    ):
        with pytest.raises(TypeError, match="'z' is relaxed"):
            use(result)
    fn = Normal(result, result.exp(), validate_args=True)
    assert torch.isfinite(plain(fn.log_prob(torch.zeros(2)))).all()
    result = plain(result)
    assert_exact(result.detach().numpy(), layer(1.0 * soft().double()).detach().numpy())


def test_copies_stay_soft():
    z = soft()
    for again in (copy.deepcopy(z), pickle.loads(pickle.dumps(z)), z.clone()):
        assert again.site == "z"
        assert_exact(_ROWS[again].numpy(), _ROWS[z].numpy())


def test_plain_operands_stay_plain():
    first, second = torch.broadcast_tensors(soft(), torch.ones(1))
    assert isinstance(first, SoftIndex)
    assert type(second) is torch.Tensor
    assert type(torch.ones(1).expand_as(soft())) is torch.Tensor


def test_equal_views_of_a_site_are_one_draw():
    z = soft()
    pairs = [
        (z, z),
        (z[:, None], z.unsqueeze(-1)),
        (z.reshape(1, N), z),
        (z[1:], z.narrow(0, 1, N - 1)),
        (z.expand(2, N), z),
    ]
    for a, b in pairs:
        assert_exact(
            plain(1.0 * (a == b)).numpy(),
            np.ones(torch.broadcast_shapes(a.shape, b.shape)),
        )
    other = plain((z[1:] == z[:-1]).double() * torch.ones(N - 1).double())
    assert_exact(other.numpy(), (_WEIGHTS[:, 1:] * _WEIGHTS[:, :-1]).sum(0))
