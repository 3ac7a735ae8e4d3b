"""A mean-field guide for any discrete model in NumPyro, and its ELBO by hard draws."""

from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import ExpandedDistribution, Independent, MaskedDistribution
from numpyro.distributions.discrete import BernoulliLogits, BernoulliProbs
from numpyro.distributions.transforms import biject_to

QUICK = {"xla_backend_optimization_level": 0}
_WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)


def mean_field(model, args, seed=0, options=None):
    """Return a discrete guide: the model's latent sites, each with its own parameters.

    Discrete sites are independent and have free logits, in parameters `z_logits`;
    continuous sites are points, in parameters `z_point`. Sites that the model marks for
    enumeration are left to it. Sites of a scan are sampled once, all steps together.
    """
    truncate = (options or {}).get("truncate", {})
    trace = handlers.trace(handlers.seed(model, seed)).get_trace(*args)
    plates = {k: s["args"] for k, s in trace.items() if s["type"] == "plate"}
    sites = {k: s for k, s in trace.items() if _is_latent(s)}
    keys = jax.random.split(jax.random.key(seed + 1), len(sites))
    free = {
        k: _free(s, truncate, plates, key)
        for (k, s), key in zip(sites.items(), keys, strict=True)
    }

    def guide(*_):
        made = {}
        for name, site in sites.items():
            with ExitStack() as stack:
                scale = 1.0 if site["scale"] is None else site["scale"]
                # The outermost plate comes last in the stack of a site.
                for frame in reversed(_frames(site, plates)):
                    size, part = plates[frame.name]
                    if frame.name not in made:
                        made[frame.name] = numpyro.plate(
                            frame.name, size, part, frame.dim
                        )
                    stack.enter_context(made[frame.name])
                    scale = scale * frame.size / size
                stack.enter_context(handlers.scale(scale=scale))
                infer = {k: v for k, v in site["infer"].items() if k[0] != "_"}
                numpyro.sample(name, free[name](), infer=infer)

    return guide


def hard_loss(model, guide, args, params, num_particles=1000, seed=0):
    """The mean loss of many draws from a discrete guide, scored as Pyro scores them."""

    def loss(params, key):
        program = handlers.seed(handlers.substitute(guide, params), key)
        drawn = handlers.trace(program).get_trace(*args)
        program = handlers.replay(handlers.seed(model, key), drawn)
        scored = handlers.trace(handlers.substitute(program, params)).get_trace(*args)
        return _total(drawn) - _total(scored)

    def mean(params, keys):
        return jax.lax.map(lambda key: loss(params, key), keys).mean()

    keys = jax.random.split(jax.random.key(seed), num_particles)
    return float(jax.jit(mean, compiler_options=QUICK)(params, keys))


def _total(trace):
    sites = [s for s in trace.values() if s["type"] == "sample"]
    return sum(
        (
            _score(s["fn"], s["value"]) * (1.0 if s["scale"] is None else s["scale"])
        ).sum()
        for s in sites
    )


def _score(fn, value):
    """The log-probability of a value, with Pyro's number for the impossible."""
    if isinstance(fn, MaskedDistribution):
        return jnp.where(fn._mask, _score(fn.base_dist, value), 0.0)
    if isinstance(fn, Independent):
        axes = tuple(range(-fn.reinterpreted_batch_ndims, 0))
        return _score(fn.base_dist, value).sum(axes)
    if isinstance(fn, ExpandedDistribution):
        score = _score(fn.base_dist, value)
        return jnp.broadcast_to(
            score, jnp.broadcast_shapes(fn.batch_shape, score.shape)
        )
    log_prob = fn.log_prob(value)
    if not fn.support.is_discrete:
        return log_prob
    # NumPyro's own is the logarithm of the smallest number, -708, or of zero.
    return jnp.where(log_prob < -600.0, jnp.log(jnp.finfo(float).eps), log_prob)


def _is_latent(site):
    if site["type"] != "sample" or site["is_observed"]:
        return False
    return not site["infer"].get("enumerate")


def _frames(site, plates):
    """The plates of a site; those inside of a scan stay there."""
    return [f for f in site["cond_indep_stack"] if f.name in plates]


def _free(site, truncate, plates, key):
    """What makes the guide's distribution at a site."""
    fn = site["fn"]
    if not fn.support.is_discrete:
        return _point(site, plates, key)
    leaf, bits = _leaf(fn), _is_bits(fn)
    one_hot = leaf.event_dim == 1
    finite = leaf if leaf.has_enumerate_support else getattr(leaf, "base_dist", leaf)
    if finite.has_enumerate_support:
        support = finite.enumerate_support(expand=False)
    else:
        largest = truncate[site["name"]] if isinstance(truncate, dict) else truncate
        support = jnp.arange(largest + 1).reshape((-1,) + (1,) * len(fn.batch_shape))
    logits = jnp.moveaxis(jnp.maximum(leaf.log_prob(support), -3.0), 0, -1)
    logits = logits[..., 1] - logits[..., 0] if bits else logits
    shape = fn.batch_shape + (fn.event_shape[:-1] if one_hot else fn.event_shape)
    shape = shape if bits else (*shape, len(support))
    logits = jnp.broadcast_to(jnp.clip(logits, -3.0, 3.0), shape)
    event_dim = logits.ndim - len(fn.batch_shape)
    init = _full(logits, site, plates, event_dim)
    init = init + 0.3 * jax.random.normal(key, init.shape)
    mask, name = _mask(fn), site["name"]

    def make():
        logits = numpyro.param(f"{name}_logits", init, event_dim=event_dim)
        free = _family(bits, one_hot)(logits=logits).to_event(fn.event_dim - one_hot)
        return free if mask is None else free.mask(mask)

    return make


def _family(bits, one_hot):
    if one_hot:
        # NumPyro has none that can be written in this way: see there.
        from numpyro_concrete import OneHotCategorical

        return OneHotCategorical
    return dist.Bernoulli if bits else dist.Categorical


def _point(site, plates, key):
    """What makes a point of a continuous site, near the median of its prior."""
    fn, name = site["fn"], site["name"]
    to_support = biject_to(fn.support)
    draws, noise = jax.random.split(key)
    median = jnp.median(to_support._inverse(fn.sample(draws, (15,))), axis=0)
    point = to_support(median + 0.1 * jax.random.normal(noise, median.shape))
    init = _full(point, site, plates, fn.event_dim)
    options = {"constraint": fn.support, "event_dim": fn.event_dim}

    def make():
        point = numpyro.param(f"{name}_point", init, **options)
        return dist.Delta(point, event_dim=fn.event_dim)

    return make


def _full(init, site, plates, event_dim):
    """Repeat the values of a minibatch to the whole of each plate."""
    for frame in _frames(site, plates):
        size, _ = plates[frame.name]
        if size != frame.size:
            index = jnp.arange(size) % frame.size
            init = jnp.take(init, index, axis=frame.dim - event_dim)
    return init


def _is_bits(fn):
    return isinstance(_leaf(fn), BernoulliProbs | BernoulliLogits)


def _mask(fn):
    """The mask of the site, which relates to its batch shape."""
    mask = None
    while isinstance(fn, MaskedDistribution | ExpandedDistribution):
        if isinstance(fn, MaskedDistribution):
            mask = fn._mask if mask is None else mask & fn._mask
        fn = fn.base_dist
    return mask


def _leaf(fn):
    """The distribution inside of to_event, expand and mask."""
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn
