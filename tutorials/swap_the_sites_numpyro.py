# %% [markdown]
# # Swap the discrete sites of your model, in NumPyro
#
# A mixture, written as one writes it: each data point draws an integer, and the
# integer picks a row of a table. We train it by enumeration, which is exact; then
# relaxed, by one call and with an unmodified model; and see what the call did, what
# it costs, and how to get that back. At the end is a failure that users of
# straight-through distributions reported, and what fixes it.
#
# Run it as `python tutorials/swap_the_sites_numpyro.py`, with `--short` for a quick
# look that trains next to nothing. The Pyro version is `swap_the_sites_pyro.py`.

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
    RLOO,
    AutoConcrete,
    StraightThrough,
    harden,
    relax,
    schedules,
)

SHORT = page.options().short

# %% [markdown]
# ## The model
#
# The 150 iris flowers of scikit-learn, of three species, with the length and the
# width of a petal. The model has three kinds of flowers and does not know the
# species. `kind` is an integer, and `locs[kind]` the ordinary way to use it.

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
# Three values a flower, and flowers that do not depend on each other: NumPyro can sum
# `kind` out. The guide is for the continuous sites alone. Where this is possible, it
# is the right thing to do, and here it is what the rest of the page is evaluated by.
# The probabilities of the kinds come from Bayes' rule at the medians of the guide.

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
# Let `kind` depend on the kinds of the flowers beside it, add another discrete site
# or ten, or pass it to a network: soon there is no sum that fits into memory. What is
# left are gradients, and a discrete sample has none. `relax` swaps the site.

# %%
relaxed = relax(model, temperature=2 / 5)

# %% [markdown]
# ## What it did
#
# `relaxed` is a program of the same signature. The figure is drawn from what
# NumPyro's own `get_model_relations` says about the two, from which `render_model`
# draws, too.

# %%
figure = mixtures.draw_graphs(
    get_model_relations(model, (measures,)),
    get_model_relations(relaxed, (measures,)),
    titles=("model", "relax(model, temperature=2 / 5)"),
)
page.show(figure, "swap_the_sites_numpyro_graphs")

# %% [markdown]
# - `kind_relaxed` is new. It is the random site: a point of the simplex in log space,
#   from the Concrete distribution, with the logits that `kind` had. It is a
#   differentiable function of noise, and it is what guides and ELBOs use.
# - `kind` is what the program receives: a deterministic function of `kind_relaxed`.
#   NumPyro looks through it, so that the arrow to `petal` starts at `kind_relaxed`.
# - All else is as it was: the plate, the observation, the continuous sites.
#
# A lower temperature brings the points nearer to the corners of the simplex, which are
# the discrete values, and makes gradients noisier. For variables of eight values, the
# paper settled on 2/5 for the model and 2/3 for the guide.
#
# ## What the model receives
#
# An integer, as before, but a soft one: three probabilities that sum to one. A table
# indexed with it gives the mean of the rows with these probabilities. At a corner that
# is one row, exactly what the discrete model gets.


# %%
@relax(temperature=2 / 5)
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
# The same holds for `kind == 1`, `kind + 1`, `where` and the rest; what has no
# relaxation, such as `if kind:`, is an error that names the site.
#
# ## Training, and hard again
#
# `AutoConcrete` is a guide for relaxed models: Concrete factors for the relaxed sites,
# with logits of their own for each flower, and for the continuous sites the normal
# factors of `AutoNormal`. Any ELBO will do.
#
# The relaxed ELBO belongs to the relaxed model and compares with nothing else. The
# number to report is that of the discrete model, with `harden(guide)`: the discrete
# guide which the relaxed one stands for, and no approximation, for the largest
# coordinate of a Concrete point is distributed exactly as the discrete variable.

# %%


def result(name, guide, params):
    """What a guide of all sites has learned, evaluated by the discrete model."""
    elbo = estimate(Trace_ELBO(), model, harden(guide), params)
    probabilities = np.asarray(guide.probabilities(params)["kind"])
    return mixtures.Result(name, *elbo, probabilities)


guide = AutoConcrete(relaxed, temperature=2 / 3, init_loc_fn=init_to_median)
params = train(relaxed, guide, Trace_ELBO(), optax.adam(RATE))
by_default = result("relaxed", guide, params)
print(mixtures.table([exact, by_default], species))

# %% [markdown]
# It found the kinds, and is less sure of them than it should be: soft samples can be
# between kinds, and the KL of Concrete densities makes certainty dear. A discrete
# ELBO pays for every flower that is drawn of the wrong kind.
#
# ## Closer
#
# Two settings help. `scoring="discrete"` scores the logarithms of the probabilities,
# weighted by the point, in place of Concrete densities; that is no bound, but becomes
# the discrete ELBO as the temperature falls. And a schedule anneals it, in the model
# and the guide; `count_steps` counts the steps for it.
#
# What then remains is a bias, and a few steps without bias remove it. `RLOO` needs
# nothing relaxed: it trains the discrete model with the hardened guide. Its gradients
# are those of the score function, averaged against each other over a few draws, and
# here they have only a little way to go.

# %%
falling = schedules.Exponential(1.0, 0.2, num_steps=STEPS)
relaxed = relax(model, falling, scoring="discrete")
guide = AutoConcrete(relaxed, init_loc_fn=init_to_median)
optim = schedules.count_steps(optax.adam(RATE))
params = train(relaxed, guide, Trace_ELBO(), optim)
closer = result("discrete scoring, falling", guide, params)

rloo = RLOO(num_particles=8)
params = train(model, harden(guide), rloo, optim, steps=STEPS // 4, start=params)
polished = result("... and steps of RLOO", guide, params)

results = [exact, by_default, closer, polished]
print(mixtures.table(results, species))
page.show(mixtures.draw_flowers(measures, results), "swap_the_sites_numpyro_flowers")

# %% [markdown]
# A flower has the color of its kind, and a mixed one where the probabilities are.
#
# ## A failure that users reported
#
# Pyro has relaxed distributions of its own, with a straight-through variant whose
# samples are hard while gradients pass as if they were soft. Users who took it for the
# two components of a mixture reported two things
# ([pyro #3127](https://github.com/pyro-ppl/pyro/issues/3127)): the samples were
# not discrete, and when they were, nothing was learned. NumPyro has a relaxed Bernoulli
# without such a variant, with which both steps fail as well. Here they are, on numbers
# from two heaps. The data are drawn, so that we know from which heap each number is.

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
# First as they wrote it: the relaxed distribution in the model, and an autoguide. The
# autoguide makes a normal variable of every continuous site, squeezed into the support
# of the site, and to NumPyro this site is one on the unit interval. The sampler of the
# relaxed Bernoulli never runs, and nothing is near to hard.

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
# Then as they were advised: a Bernoulli in the model, and the relaxed distribution in
# a hand-written guide. NumPyro warns that the model is discrete, and a Bernoulli has
# no probability for a value between zero and one.

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
# the density of a point on the unit interval. These two do not belong together: the
# difference of their logarithms is no KL. With one-hot samples of the binary
# variables it would be a number, as it is in Pyro, but nothing ties its optimum to
# the posterior. And a hard sample says little at the start, where both heaps look
# alike.
#
# With `relax`, model and guide are Bernoulli, and both are relaxed: one density
# against another, with the prior's probabilities in it. The second line below has
# one-hot samples of the binary variables, by `StraightThrough`, so that it shows what
# the densities alone fix. The last marginalizes the binary variables out.

# %%
guide = guide_with(lambda x: dist.Bernoulli(logits=x))
for name, estimator in (
    ("relaxed", None),
    ("relaxed, one-hot", StraightThrough()),
):
    params = fit(
        relax(bernoulli, 1 / 2, estimator=estimator),
        relax(guide, 2 / 3, estimator=estimator),
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
# The heaps are separated by the relaxed programs with soft samples, as by
# enumeration, if with less certainty than they should have: the remedies are those
# from above. Hard binary variables with the right densities get part of the way in
# the same number of steps.
#
# ## What to take along
#
# - Write the discrete model. Enumerate what you can.
# - `relax(model, temperature)`, and `AutoConcrete` or your own discrete guide, relaxed.
# - Report the ELBO of the discrete model with `harden(guide)`.
# - If certainty matters, score the discrete mass at a falling temperature, and end with
#   steps that have no bias.
