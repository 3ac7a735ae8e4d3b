"""A mean-field guide for any discrete model in Pyro, and its exact ELBO."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import (
    ExpandedDistribution,
    MaskedDistribution,
)
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import Independent, biject_to


def mean_field(model, args, seed=0, options=None):
    """Return a discrete guide: the model's latent sites, each with its own parameters.

    Discrete sites are independent and have free logits, in parameters `z_logits`;
    continuous sites are points, in parameters `z_point`. Sites that the model marks for
    enumeration are left to it.
    """
    truncate = (options or {}).get("truncate", {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trace = poutine.trace(model).get_trace(*args)
        free = {k: _free(s, truncate) for k, s in trace.nodes.items() if _is_latent(s)}

    def hidden(msg):
        if msg["type"] != "sample" or site_is_subsample(msg):
            return False
        return msg["name"] not in free

    return poutine.block(MeanFieldMessenger(free)(model), hide_fn=hidden)


def exact_loss(model, guide, args, plates=1):
    """The loss of a discrete mean-field guide, without noise: a scalar in the graph."""
    elbo = TraceEnum_ELBO(max_plate_nesting=plates)
    return elbo.differentiable_loss(model, config_enumerate(guide, "parallel"), *args)


def train_exactly(model, guide, args, plates=1, steps=200, lr=0.05):
    """Train a discrete mean-field guide by its exact loss, and return the losses."""
    elbo, optimiser = TraceEnum_ELBO(max_plate_nesting=plates), pyro.optim.Adam
    svi = SVI(model, config_enumerate(guide, "parallel"), optimiser({"lr": lr}), elbo)
    return [svi.step(*args) for _ in range(steps)]


class MeanFieldMessenger(Messenger):
    """Runs a model as its own guide: outside it samples freely, inside all is known.

    The program goes on with the prior draw that `mean_field` recorded, so that nothing
    that enumeration or relaxation makes of a site has to pass through it.
    """

    def __init__(self, free):
        super().__init__()
        self.free = free

    def _pyro_sample(self, msg):
        # A hidden site is none that pyro.markov should know of.
        for name in set(msg["infer"].get("_markov_scope", ())) - set(self.free):
            del msg["infer"]["_markov_scope"][name]
        if msg["name"] in self.free:
            make, _ = self.free[msg["name"]]
            msg["fn"] = make(msg["name"], msg["fn"])

    def _pyro_post_sample(self, msg):
        if msg["name"] in self.free:
            _, msg["value"] = self.free[msg["name"]]


def _is_latent(site):
    if site["type"] != "sample" or site["is_observed"] or site_is_subsample(site):
        return False
    return not site["infer"].get("enumerate")


def _free(site, truncate):
    """What makes the guide's distribution at a site, and the value drawn there."""
    fn, value = site["fn"], site["value"].detach()
    if not fn.support.is_discrete:
        return _point(site), value
    leaf = _leaf(fn)
    bits, one_hot = (
        isinstance(leaf, f) for f in (dist.Bernoulli, dist.OneHotCategorical)
    )
    finite = leaf if leaf.has_enumerate_support else getattr(leaf, "base_dist", leaf)
    if finite.has_enumerate_support:
        support = finite.enumerate_support(expand=False)
    else:
        largest = truncate[site["name"]] if isinstance(truncate, dict) else truncate
        support = torch.arange(largest + 1.0).reshape(
            (-1,) + (1,) * len(fn.batch_shape)
        )
    logits = leaf.log_prob(support).detach().clamp(min=-3.0).movedim(0, -1)
    logits = logits[..., 1] - logits[..., 0] if bits else logits
    shape = fn.batch_shape + (fn.event_shape[:-1] if one_hot else fn.event_shape)
    logits = logits.clamp(-3.0, 3.0).expand(shape if bits else (*shape, len(support)))
    init = _full(logits, site, len(logits.shape) - len(fn.batch_shape))
    init = init + 0.3 * torch.randn_like(init)
    family = dist.OneHotCategorical if one_hot else dist.Categorical
    family = dist.Bernoulli if bits else family

    def make(name, prior):
        event_dim = init.dim() - len(fn.batch_shape)
        free = family(logits=pyro.param(f"{name}_logits", init, event_dim=event_dim))
        free = free.to_event(fn.event_dim - one_hot)
        return free.mask(prior._mask) if _is_masked(prior) else free

    return make, value


def _point(site):
    """What makes a point of a continuous site, near the median of its prior."""
    fn = site["fn"]
    to_support = biject_to(fn.support)
    draws = to_support.inv(fn.sample((15,))).detach()
    median = draws.median(0).values
    point = to_support(median + 0.1 * torch.randn_like(median))
    init = _full(point, site, fn.event_dim)

    def make(name, _):
        options = {"constraint": fn.support, "event_dim": fn.event_dim}
        return dist.Delta(
            pyro.param(f"{name}_point", init, **options), event_dim=fn.event_dim
        )

    return make


def _full(init, site, event_dim):
    """Repeat the values of a minibatch to the whole of each plate."""
    for frame in site["cond_indep_stack"]:
        if frame.vectorized and frame.full_size != frame.size:
            index = torch.arange(frame.full_size) % frame.size
            init = init.index_select(frame.dim - event_dim, index)
    return init.clone()


def _is_masked(fn):
    return isinstance(fn, MaskedDistribution)


def _leaf(fn):
    """The distribution inside of to_event, expand and mask."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn
