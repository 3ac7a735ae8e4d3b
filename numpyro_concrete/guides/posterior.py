"""Class probabilities and quantiles of the discrete variables of Concrete factors.

By the Gumbel-max trick, these are those of a categorical variable with the logits of
the factor, whatever its temperature.

Counterpart: ``pyro_concrete.guides.posterior``.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from jax.nn import one_hot, sigmoid, softmax
from numpyro.handlers import block, seed, substitute

from concrete_core.guides import Call, Program
from numpyro_concrete.guides.sites import RelaxedSite

Values = dict[str, Array]  # of sites, by name
Params = Mapping[str, Any]  # as from SVI.get_params: arrays, or trees of networks


def class_probabilities(site: RelaxedSite, logits: Array) -> Array:
    """Return the probability of each class of a site.

    Shapes:
        logits: batch shape of the site, and the classes unless it is two-valued.
        result: batch shape of the site, and the classes; two-valued sites have two.

    Args:
        site: The relaxed site.
        logits: Logits of its factor.

    Counterpart: :func:`pyro_concrete.guides.posterior.class_probabilities`.
    """
    if site.is_binary:
        return sigmoid(jnp.stack([-logits, logits], -1))
    return softmax(logits)


def discrete_quantiles(
    site: RelaxedSite, logits: Array, levels: Sequence[float] | Array
) -> Array:
    """Return the quantiles of a site: the least value v with P(z <= v) >= level.

    Shapes:
        result: the levels, and the shape of the discrete site.

    Args:
        site: The relaxed site.
        logits: Logits of its factor.
        levels: Levels, in [0, 1].

    Counterpart: :func:`pyro_concrete.guides.posterior.discrete_quantiles`.
    """
    probs = class_probabilities(site, logits)
    cumulative = jnp.minimum(probs.cumsum(-1), 1.0)
    level = jnp.asarray(levels).reshape(-1, *(1,) * cumulative.ndim)
    # Without the last class, which is reached whatever rounding makes of the sum.
    class_index = (cumulative[..., :-1] < level).sum(-1)
    if site.values is None:
        return one_hot(class_index, cumulative.shape[-1], dtype=cumulative.dtype)
    return site.values[class_index]


def deterministic_values(
    model: Program,
    call: Call,
    params: Params,
    latent_values: Values,
    hidden_names: Collection[str],
    sample_shape: tuple[int, ...],
) -> Values:
    """Return the values of deterministic sites at samples of the latent sites.

    Args:
        model: The relaxed model, which is the discrete one at one-hot points.
        call: Its arguments.
        params: Its parameters.
        latent_values: Samples of its latent sites; of relaxed sites, one-hot points.
        hidden_names: Names of deterministic sites that are left out.
        sample_shape: Shape of the samples.
    """

    def values_at(sample: Values) -> Values:
        data = {**params, **sample}
        program = substitute(seed(model, 0), data=data)
        with block():
            trace = call.apply(numpyro.handlers.trace(program).get_trace)
        return {
            name: jnp.asarray(site["value"])
            for name, site in trace.items()
            if site["type"] == "deterministic" and name not in hidden_names
        }

    if not sample_shape or not latent_values:
        return values_at(latent_values)
    num_sample_axes = len(sample_shape)
    flat_samples = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[num_sample_axes:]), latent_values
    )
    flat_values = jax.lax.map(values_at, flat_samples)
    return jax.tree.map(lambda x: x.reshape(*sample_shape, *x.shape[1:]), flat_values)
