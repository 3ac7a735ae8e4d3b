# %% [markdown]
# # Swap the discrete sites of your model, in NumPyro
#
# This tutorial trains a mixture model in which each data point draws an integer that
# selects a row of a table. We train it by enumeration, which is exact, and then
# relaxed, with one call and an unmodified model. We look at what the call does, how
# much accuracy it loses, and how to recover it. The last section explains a failure
# that users of straight-through distributions reported, and how to fix it.
#
# Run it as `python tutorials/swap_the_sites_numpyro.py`, with `--short` for a quick
# look that trains for a few steps. The Pyro version is `swap_the_sites_pyro.py`.

# %%
import warnings

import jax
import jax.numpy as jnp
import mixtures
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import page
from jax import random
from numpyro.contrib.funsor import config_enumerate
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_median
from numpyro.infer.inspect import get_model_relations

from numpyro_concrete import (
    AutoConcrete,
    RelaxedWarmup,
    StraightThrough,
    harden,
    relax,
    schedules,
)

SHORT = page.options().short

# %% [markdown]
# ## The model
#
# The data are the 150 iris flowers of scikit-learn, of three species, with the length
# and the width of a petal. The model has three kinds of flowers and does not know the
# species. `kind` is an integer, and `locs[kind]` is the usual way to use it.

# %%
measures, species = mixtures.flowers()
measures = jnp.asarray(measures)
CENTERS = jnp.array([[1.0, 0.0], [4.0, 1.0], [6.0, 2.0]])


def model(measures):
    """Three kinds of flowers, with two measures each."""
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.full(3, 2.0)))
    locs = numpyro.sample("locs", dist.Normal(CENTERS, 1.0).to_event(2))
    widths = dist.LogNormal(-1.0, 0.5).expand([3])
    scales = numpyro.sample("scales", widths.to_event(1))
    with numpyro.plate("flowers", len(measures)):
        kind = numpyro.sample("kind", dist.Categorical(shares))
        petal = dist.Normal(locs[kind], scales[kind][:, None])
        numpyro.sample("petal", petal.to_event(1), obs=measures)


# %% [markdown]
# ## By enumeration
#
# There are three values per flower, and the flowers are independent of each other, so
# NumPyro can marginalize out `kind`. The guide has the continuous sites only.
# Enumerate whenever this is possible. Here, the enumerated result is the reference
# for the rest of the page. The probabilities of the kinds come from Bayes' rule at
# the medians of the guide.

# %%
STEPS = 20 if SHORT else 1000
RATE = 0.05


def train(model, guide, elbo, optim, steps=STEPS, start=None):
    """Take steps of SVI, and return the parameters."""
    svi = SVI(model, guide, optim, elbo)
    options = {"progress_bar": False, "init_params": start}
    return svi.run(random.key(0), steps, measures, **options).params


def estimate(elbo, model, guide, params, repeats=5 if SHORT else 100):
    """An ELBO in nats, and the standard error of the estimate."""
    keys = random.split(random.key(1), repeats)
    loss = jax.jit(lambda key: elbo.loss(key, params, model, guide, measures))
    elbos = [-loss(key) for key in keys]
    return np.mean(elbos), np.std(elbos, ddof=1) / repeats**0.5


enumerated = config_enumerate(model)
guide = AutoNormal(block(model, hide=["kind"]), init_loc_fn=init_to_median)
summed = TraceEnum_ELBO(max_plate_nesting=1)
params = train(enumerated, guide, summed, optax.adam(RATE))

exact = mixtures.Result(
    "enumerated",
    *estimate(summed, enumerated, guide, params),
    mixtures.by_bayes(np.asarray(measures), guide.median(params)),
)
print(mixtures.table([exact], species))

# %% [markdown]
# The columns are the ELBO in nats, the mean absolute difference of the kinds'
# probabilities from those of the first row, and the share of flowers whose likeliest
# kind is their species.
#
# ## What if it were not possible?
#
# If `kind` depends on the kinds of neighboring flowers, if there are ten more
# discrete sites, or if a network takes `kind` as input, the sum no longer fits into
# memory. Gradients remain, but a discrete sample has none. `relax` replaces the site
# by one that has.

# %%
relaxed = relax(model)

# %% [markdown]
# ## What it did
#
# `relaxed` has the same signature as the model. The figure shows what NumPyro's own
# `get_model_relations` returns for both, which is also the input of `render_model`.

# %%
figure = mixtures.draw_graphs(
    get_model_relations(model, (measures,)),
    get_model_relations(relaxed, (measures,)),
    titles=("model", "relax(model)"),
)
page.show(figure, "swap_the_sites_numpyro_graphs")

# %% [markdown]
# - `kind_relaxed` is new. It is the random site, a point of the simplex in log space
#   from the Concrete distribution with the logits of `kind`. It is a differentiable
#   function of noise, and it is what guides and ELBOs use.
# - `kind` is the value that the model receives: a deterministic function of
#   `kind_relaxed`. NumPyro traces the dependence through it, so the arrow to `petal`
#   starts at `kind_relaxed`.
# - The plate, the observation and the continuous sites are unchanged.
#
# A lower temperature moves the samples closer to the corners of the simplex, which
# are the discrete values, and increases the noise of gradients. The default is 0.2.
#
# ## What the model receives
#
# The model receives a soft integer: three probabilities that sum to one. A table
# indexed with it gives the mean of the rows with these probabilities. At a corner,
# that is exactly the row of the discrete model.


# %%
@relax(temperature=0.5)
def pick():
    """A row of the table of centers."""
    kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    return CENTERS[kind]


for key in random.split(random.key(1), 3):
    run = trace(seed(pick, key))
    row = run()
    row, probs = np.asarray(row), np.exp(run.trace["kind_relaxed"]["value"])
    print("probs", probs.round(3), "  row", row.round(3))
    assert np.allclose(row, probs @ CENTERS, rtol=1e-4)

# %% [markdown]
# The same holds for `kind == 1`, `kind + 1`, `where` and other functions. An
# operation without a relaxation, such as `if kind:`, is an error that names the site.
#
# ## Training, and back to discrete samples
#
# `AutoConcrete` is a guide for relaxed models: Concrete factors for the relaxed
# sites, with logits of their own for each flower, and for the continuous sites the
# normal factors of `AutoNormal`. It works with any ELBO.
#
# The relaxed ELBO belongs to the relaxed model and cannot be compared with other
# ELBOs. Report the ELBO of the discrete model with `harden(guide)`, the discrete
# counterpart of the relaxed guide. This is not an approximation: the largest
# coordinate of a Concrete sample has exactly the distribution of the discrete
# variable.

# %%


def result(name, guide, params):
    """What a guide of all sites has learned, evaluated by the discrete model."""
    elbo = estimate(Trace_ELBO(), model, harden(guide), params)
    probabilities = np.asarray(guide.probabilities(params)["kind"])
    return mixtures.Result(name, *elbo, probabilities)


guide = AutoConcrete(relaxed, init_loc_fn=init_to_median)
params = train(relaxed, guide, Trace_ELBO(), optax.adam(RATE))
by_default = result("relaxed", guide, params)
print(mixtures.table([exact, by_default], species))

# %% [markdown]
# The guide finds the kinds, but its discrete ELBO is below the enumerated one, because
# a relaxed gradient is biased: soft samples can be between kinds.
#
# ## Closer
#
# The bias disappears after some unbiased steps. `RelaxedWarmup` is a loss that trains
# relaxed for some of the steps, and anneals the temperature over them. Then it trains
# the discrete model and the hardened guide, here by `LocalExpectations`: an exact sum
# over the values of each `kind` in turn. The flowers are independent, so that the sums
# of all of them take two more runs of the model. `count_steps` counts the steps.
#
# For comparison, the first lines below train with the objective of the paper,
# `scoring="concrete"`. It scores the sites by their Concrete densities, and is a bound
# on the evidence of the relaxed model. The KL of two Concretes penalizes certainty, so
# that the guide is less certain than it should be, and the discrete ELBO is low
# because of every flower that is drawn with the wrong kind.

# %%
concrete = relax(model, temperature=2 / 5, scoring="concrete")
guide = AutoConcrete(concrete, temperature=2 / 3, init_loc_fn=init_to_median)
params = train(concrete, guide, Trace_ELBO(), optax.adam(RATE))
by_density = result("... scored by density", guide, params)

guide = AutoConcrete(relaxed, init_loc_fn=init_to_median)
optim = schedules.count_steps(optax.adam(RATE))
elbo = RelaxedWarmup(STEPS // 2)
params = train(relaxed, guide, elbo, optim, steps=3 * STEPS)
closer = result("... then unbiased", guide, params)

results = [exact, by_default, by_density, closer]
print(mixtures.table(results, species))
page.show(mixtures.draw_flowers(measures, results), "swap_the_sites_numpyro_flowers")

# %% [markdown]
# Each flower has the color of its kind, mixed with the probabilities of the kinds.
#
# ## A failure that users reported
#
# Pyro has relaxed distributions of its own, with a straight-through variant whose
# samples are discrete and whose gradients are those of the soft sample. Users who
# used it for the two components of a mixture reported two things ([pyro
# #3127](https://github.com/pyro-ppl/pyro/issues/3127)): the samples were not
# discrete, and when they were, nothing was learned. NumPyro has a relaxed Bernoulli
# without such a variant, with which both steps fail as well. Both are reproduced
# here, with simulated data from two clusters.

# %%
numbers, second = mixtures.two_heaps()
numbers = jnp.asarray(numbers)


def two_heaps(binary):
    """A mixture of two normals, with a given distribution of its binary variables."""

    def model(numbers):
        means = dist.Normal(jnp.array([-1.0, 5.0]), 3.0)
        locs = numpyro.sample("locs", means.to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        share = numpyro.sample("share", dist.Beta(2.0, 2.0))
        with numpyro.plate("numbers", len(numbers)):
            z = numpyro.sample("z", binary(share))
            loc = (1 - z) * locs[0] + z * locs[1]
            numpyro.sample("x", dist.Normal(loc, scale), obs=numbers)

    return model


def points(_):
    """A guide of the continuous sites: point estimates."""
    locs = numpyro.param("at.locs", jnp.array([1.0, 2.0]))
    numpyro.sample("locs", dist.Delta(locs, event_dim=1))
    scale = jnp.exp(numpyro.param("at.scale", 0.5))
    numpyro.sample("scale", dist.Delta(scale))
    share = jax.nn.sigmoid(numpyro.param("at.share", 0.0))
    numpyro.sample("share", dist.Delta(share))
    return locs, scale, share


def guide_with(binary):
    """A hand-written guide of all sites, with logits for each binary variable."""

    def guide(numbers):
        points(numbers)
        logits = numpyro.param("logits", jnp.zeros(len(numbers)))
        with numpyro.plate("numbers", len(numbers)):
            numpyro.sample("z", binary(logits))

    return guide


HEAP_STEPS = 20 if SHORT else 600
found = {}


def fit(model, guide, elbo):
    """Train on the numbers from scratch."""
    svi = SVI(model, guide, optax.adam(RATE), elbo)
    return svi.run(random.key(0), HEAP_STEPS, numbers, progress_bar=False)


def note(name, probabilities, locs):
    """Keep and print what was found."""
    found[name] = np.asarray(probabilities)
    print(mixtures.heap_line(name, found[name], second, locs))


# %% [markdown]
# The first attempt has the relaxed distribution in the model, and uses an autoguide.
# The autoguide uses a normal variable for every continuous site, mapped to the
# support of the site, and for NumPyro the support of this site is the unit interval.
# The sampler of the relaxed Bernoulli never runs, and no sample is close to discrete.

# %%


def own_relaxed(share):
    return dist.RelaxedBernoulli(0.5, probs=share)


model = two_heaps(own_relaxed)
guide = AutoNormal(model)
params = fit(model, guide, Trace_ELBO()).params
z = guide.sample_posterior(random.key(1), params, numbers)["z"]
print(f"values of a draw that are 0 or 1: {((z == 0) | (z == 1)).sum()} of {len(z)}")
medians = guide.median(params)
note("relaxed in the model, AutoNormal", medians["z"], medians["locs"])

# %% [markdown]
# The second attempt, which they were advised to try, has a Bernoulli in the model,
# and the relaxed distribution in a hand-written guide. NumPyro warns that the model
# is discrete, and a Bernoulli has no probability for a value between zero and one.

# %%
bernoulli = two_heaps(dist.Bernoulli)
hand = guide_with(lambda x: dist.RelaxedBernoulli(0.5, logits=x))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    svi = fit(bernoulli, hand, Trace_ELBO())
print("the last loss:", svi.losses[-1])
note(
    "relaxed guide",
    jax.nn.sigmoid(svi.params["logits"]),
    svi.params["at.locs"],
)

# %% [markdown]
# The ELBO scores the model by the probability of a binary variable, and the guide by
# the density of a point on the unit interval. The difference of their logarithms is
# not a KL divergence. With discrete samples it would be finite, as it is in Pyro, but
# its optimum is unrelated to the posterior. In addition, a discrete sample carries
# little information at the start, when both clusters look alike.
#
# With `relax`, model and guide are Bernoulli, and both are relaxed, so that the ELBO
# compares two densities and includes the prior's probabilities. The second line below
# has one-hot samples of the binary variables, by `StraightThrough`, to show the
# effect of the densities alone. The last line marginalizes out the binary variables.

# %%
guide = guide_with(lambda x: dist.Bernoulli(logits=x))
for name, estimator in (
    ("relaxed", None),
    ("relaxed, one-hot", StraightThrough()),
):
    params = fit(
        relax(bernoulli, estimator=estimator),
        relax(guide, estimator=estimator),
        Trace_ELBO(),
    ).params
    note(name, jax.nn.sigmoid(params["logits"]), params["at.locs"])

params = fit(config_enumerate(bernoulli), points, TraceEnum_ELBO(max_plate_nesting=1))
locs, scale, share = substitute(points, data=params.params)(numbers)
note("enumerated", mixtures.second_by_bayes(numbers, locs, scale, share), locs)

page.show(
    mixtures.draw_heaps(np.asarray(numbers), second, found),
    "swap_the_sites_numpyro_heaps",
)

# %% [markdown]
# The relaxed model with soft samples separates the clusters, like enumeration.
#
# ## Summary
#
# - Write the discrete model. Enumerate what you can.
# - `relax(model)`, and `AutoConcrete` or your own discrete guide, relaxed.
# - Report the ELBO of the discrete model with `harden(guide)`.
# - For the last percent, end with unbiased steps: `RelaxedWarmup`.
