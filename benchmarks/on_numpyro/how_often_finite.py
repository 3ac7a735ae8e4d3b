"""Check a cell of the grid with NumPyro."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array, random
from jax.nn import sigmoid
from numpyro.infer import Trace_ELBO

from benchmarks.how_often_finite import BATCH, Cell, Way
from numpyro_concrete import (
    ExpConcrete,
    LogitBinaryConcrete,
    OneHotCategorical,
    relax,
)

Check = Callable[..., dict[str, Array]]


def _examine(check: Check, cell: Cell) -> set[str]:
    """The faults of a cell. Each check is compiled once for a shape and precision."""
    with jax.enable_x64(cell.dtype == "float64"):
        dtype = jnp.dtype(cell.dtype)
        logits = (jnp.asarray(cell.logits(offset), dtype) for offset in (0, 1))
        # Half-precision arrays stay so beside a Python number, not beside an array.
        temperature = cell.temperature
        if dtype.itemsize > 2:
            temperature = jnp.asarray(temperature, dtype)
        key = random.key(cell.seed)
        finite = _compiled(check)(key, temperature, *logits)
        return {kind for kind, all_finite in finite.items() if not all_finite}


@cache
def _compiled(check: Check) -> Check:
    return jax.jit(check)


def _finite(*xs: Array) -> Array:
    return jnp.stack([jnp.isfinite(x).all() for x in xs]).all()


def _total(x: Array) -> Array:
    """The sum, in single precision at least: it is no part of what is examined."""
    return x.sum(dtype=jnp.promote_types(x.dtype, jnp.float32))


def _bounded(value: Array, log_space: bool) -> Array:
    """A bounded function of the relaxed value."""
    if log_space:
        value = sigmoid(value) if value.ndim == 1 else jnp.exp(value)
    return jnp.square(value)


def _check_distribution(
    categorical: Callable | None,
    binary: Callable,
    log_space: bool,
    key: Array,
    temperature: Array,
    logits: Array,
    _: Array,
) -> dict[str, Array]:
    def loss(temperature: Array, logits: Array, in_full: bool) -> tuple:
        family = binary if logits.ndim == 1 else categorical
        d = family(temperature, logits=logits)
        value, intermediates = d.sample_with_intermediates(key)
        log_prob = (
            d.log_prob(value + 0) if in_full else d.log_prob(value, intermediates)
        )
        total = _total(log_prob) + _total(_bounded(value, log_space))
        return total, (value, log_prob)

    gradient = jax.grad(loss, (0, 1), has_aux=True)
    gradients, (value, log_prob) = gradient(temperature, logits, False)
    gradients_in_full, (_, in_full) = gradient(temperature, logits, True)
    return {
        "samples": _finite(value),
        "log_prob": _finite(log_prob),
        "in_full": _finite(in_full),
        "gradients": _finite(*gradients, *gradients_in_full),
    }


def _check_relax(
    key: Array, temperature: Array, logits_q: Array, logits_p: Array
) -> dict[str, Array]:
    def site(logits: Array) -> Array:
        if logits.ndim == 1:
            return numpyro.sample("z", dist.Bernoulli(logits=logits))
        z = numpyro.sample("z", OneHotCategorical(logits=logits))
        return (z * jnp.linspace(-1, 1, logits.shape[-1], dtype=z.dtype)).sum(-1)

    def loss(temperature: Array, logits_q: Array, logits_p: Array) -> Array:
        def model() -> None:
            with numpyro.plate("variables", BATCH):
                x = site(logits_p)
                numpyro.sample("x", dist.Normal(x, 1.0), obs=jnp.zeros(BATCH))

        def guide() -> None:
            with numpyro.plate("variables", BATCH):
                site(logits_q)

        relaxed = (
            relax(program, temperature, scoring="concrete")
            for program in (model, guide)
        )
        return Trace_ELBO().loss(key, {}, *relaxed)

    value, gradients = jax.value_and_grad(loss, (0, 1, 2))(
        temperature, logits_q, logits_p
    )
    return {"log_prob": _finite(value), "gradients": _finite(*gradients)}


WAYS = (
    Way(
        "ours",
        "ExpConcrete",
        "LogitBinaryConcrete",
        partial(
            _examine,
            partial(_check_distribution, ExpConcrete, LogitBinaryConcrete, True),
        ),
    ),
    Way(
        "ours, through relax",
        "relax(OneHotCategorical)",
        "relax(Bernoulli)",
        partial(_examine, _check_relax),
    ),
    Way(
        "numpyro.distributions",
        None,
        "RelaxedBernoulli",
        partial(
            _examine,
            partial(
                _check_distribution,
                None,
                partial(dist.RelaxedBernoulli, validate_args=False),
                False,
            ),
        ),
    ),
)
