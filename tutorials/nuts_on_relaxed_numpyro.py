# %% [markdown]
# # NUTS on a relaxed model in NumPyro
#
# NUTS uses gradients, so it cannot sample a discrete variable. NumPyro marginalizes
# out such variables, which is exact and preferable wherever it is possible. This page
# shows an alternative for models where it is not: relax the model, run NUTS on it
# unchanged, and make the draws discrete again. The model is one whose discrete sites
# can be marginalized out, too, so we can measure the error of the relaxation.
#
# Run it as `python tutorials/nuts_on_relaxed_numpyro.py`, with `--short` for a quick
# look that takes a few samples. The Pyro version is `nuts_on_relaxed_pyro.py`.

# %%
import time

import flowers
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import page
from jax import random
from numpyro.contrib.funsor import config_enumerate
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS, init_to_sample

from numpyro_concrete import relax

numpyro.enable_x64()

# %% [markdown]
# ## The model
#
# A hundred iris flowers of two kinds, with two measures each: a mixture. `kind` is an
# integer and picks a row of `locs`. The model does not depend on `relax`. The priors
# say which kind is the larger one; chains start at draws from them, for the mirror
# image of the posterior is a mode, too, if a poor one.

# %%


def model(measures):
    """Two kinds of flowers, with two measures each."""
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    centers = jnp.array([[4.0, 1.0], [6.0, 2.0]])
    locs = numpyro.sample("locs", dist.Normal(centers, 0.5).to_event(2))
    spread = dist.LogNormal(-1.0, 0.5).expand([2]).to_event(1)
    scales = numpyro.sample("scales", spread)
    with numpyro.plate("flowers", len(measures)):
        kinds = dist.Categorical(jnp.stack([1 - share, share]))
        kind = numpyro.sample("kind", kinds)
        numpyro.sample("x", dist.Normal(locs[kind], scales).to_event(1), obs=measures)


# %% [markdown]
# ## Two ways to run it
#
# With the kinds marginalized out, NUTS samples five numbers. Relaxed, it also samples
# `kind_relaxed`, a point of the simplex for each flower in log space. The Concrete
# family declares its support and a bijection to the real line, so NUTS needs no
# further settings.
#
# The relaxed model is another model with another posterior. A soft `kind` can explain
# a flower between the kinds by a mean between them, which the discrete model cannot.
# A lower temperature reduces this effect, but makes the posterior of each flower more
# bimodal, so NUTS needs smaller steps.

# %%
TEMPERATURES = (1.0, 1 / 2, 1 / 4, 1 / 10)
DRAWS, CHAINS = 500, 4


def program(temperature):
    """The model to sample: relaxed, or with its kinds enumerated."""
    if temperature:
        return relax(model, temperature, scoring="concrete")
    return config_enumerate(model)


# %% [markdown]
# ## Discrete values
#
# The discrete value of a draw of `kind_relaxed` is its largest coordinate, as with
# `harden` for a guide. Under the prior, it is exactly a draw of the discrete site.
# Under the posterior of the relaxed model it is an approximation. We compare its
# frequencies with the exact probabilities: Bayes' rule, averaged over the draws with
# the kinds marginalized out.
#
# Where Bayes' rule is known, there is a second way: ignore the relaxed values, and
# apply the rule to the other sites of the same draws.

# %%


def is_second_kind(points):
    """Whether the discrete value is the second kind, by draw and flower."""
    return np.asarray(points.argmax(-1) == 1)


# %% [markdown]
# ## Diagnostics
#
# The diagnostics are the backend's own: check for `r_hat` near one, a sufficient
# effective sample size, and no divergences. They cover every coordinate of the
# relaxed site. They show whether NUTS has sampled the relaxed model. The last columns
# show how far that is from the discrete one.
#
# NumPyro records energies, too. Their fraction of missing information is low where
# the sampler cannot reach the tails.

# %%
EXTRA = ("diverging", "energy", "adapt_state.step_size")


def energy_fraction(energy):
    """The energy Bayesian fraction of missing information, the least of all chains."""
    steps = np.diff(energy, axis=1)
    return float(np.min((steps**2).mean(1) / energy.var(1)))


def run(measures, temperature=None, draws=DRAWS):
    """Sample, as many steps to warm up as draws, and return what was found."""
    kernel = NUTS(program(temperature), max_tree_depth=8, init_strategy=init_to_sample)
    mcmc = MCMC(
        kernel,
        num_warmup=draws,
        num_samples=draws,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    start = time.perf_counter()
    mcmc.run(random.key(0), jnp.asarray(measures), extra_fields=EXTRA)
    found, by_chain = mcmc.get_samples(), mcmc.get_samples(group_by_chain=True)
    seconds = time.perf_counter() - start
    by_chain.pop("kind", None)  # follows from kind_relaxed
    worst = summary(by_chain).values()
    extra = {k: np.asarray(v) for k, v in mcmc.get_extra_fields(True).items()}
    hard, noise = None, None
    if temperature:
        hard, noise = flowers.shares(is_second_kind(found["kind_relaxed"]))
    return flowers.Result(
        temperature=temperature,
        step_size=float(extra["adapt_state.step_size"].mean()),
        draws_per_second=2 * draws * CHAINS / seconds,
        r_hat=max(float(np.max(site["r_hat"])) for site in worst),
        ess=min(float(np.min(site["n_eff"])) for site in worst),
        divergences=int(extra["diverging"].sum()),
        bfmi=energy_fraction(extra["energy"]),
        bayes=flowers.by_bayes(measures, {k: np.asarray(v) for k, v in found.items()}),
        hard=hard,
        noise=noise,
    )


# %% [markdown]
# ## The result

# %%
if __name__ == "__main__":
    measures, draws, temperatures = flowers.load(), DRAWS, TEMPERATURES
    if page.options().short:
        measures, draws, temperatures = measures[40:60], 4, TEMPERATURES[:1]
    results = [run(measures, t, draws) for t in (None, *temperatures)]
    print(flowers.table(results))
    page.show(flowers.draw(results, measures), "nuts_on_relaxed_numpyro")

# %% [markdown]
# Read the rows from the top. A lower temperature brings the hardened draws nearer to
# the exact probabilities, until the noise of the sampler hides the remaining
# difference; a single step down may be hidden by it. In exchange, the steps of NUTS
# become shorter, and each draw needs more of them. The row with the kinds
# marginalized out has the largest step and the most independent draws.
#
# Where the discrete sites can be marginalized out, do that. Where they cannot, start
# at a temperature of one half, and halve it until the results no longer change or the
# diagnostics get worse.
