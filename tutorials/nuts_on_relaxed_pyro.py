# %% [markdown]
# # NUTS on a relaxed model in Pyro
#
# NUTS uses gradients, so it cannot sample a discrete variable. Pyro marginalizes out
# such variables, which is exact and preferable wherever it is possible. This page
# shows an alternative for models where it is not: relax the model, run NUTS on it
# unchanged, and make the draws discrete again. The model is one whose discrete sites
# can be marginalized out, too, so we can measure the error of the relaxation.
#
# Run it as `python tutorials/nuts_on_relaxed_pyro.py`, with `--short` for a quick
# look that takes a few samples. The NumPyro version is `nuts_on_relaxed_numpyro.py`.

# %%
import time

import flowers
import numpy as np
import page
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, config_enumerate
from pyro.infer.autoguide import init_to_sample

from pyro_concrete import relax

torch.set_default_dtype(torch.float64)

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
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    centers = torch.tensor([[4.0, 1.0], [6.0, 2.0]])
    locs = pyro.sample("locs", dist.Normal(centers, 0.5).to_event(2))
    scales = pyro.sample("scales", dist.LogNormal(-1.0, 0.5).expand([2]).to_event(1))
    with pyro.plate("flowers", len(measures)):
        kind = pyro.sample("kind", dist.Categorical(torch.stack([1 - share, share])))
        pyro.sample("x", dist.Normal(locs[kind], scales).to_event(1), obs=measures)


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
TEMPERATURES = (1.0, 1 / 4)
DRAWS = 200


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
# Pyro's chains run one after the other or in processes; here there is one, and
# `r_hat` compares its halves.

# %%


def run(measures, temperature=None, draws=DRAWS):
    """Sample, as many steps to warm up as draws, and return what was found."""
    pyro.set_rng_seed(0)
    kernel = NUTS(
        program(temperature),
        max_plate_nesting=1,
        max_tree_depth=6,
        init_strategy=init_to_sample,
    )
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
    start = time.perf_counter()
    with pyro.validation_enabled(False):
        mcmc.run(torch.as_tensor(measures))
    seconds = time.perf_counter() - start
    found, diagnostics = mcmc.get_samples(), mcmc.diagnostics()
    worst = [diagnostics[name] for name in found]
    hard, noise = None, None
    if temperature:
        hard, noise = flowers.shares(is_second_kind(found["kind_relaxed"]))
    return flowers.Result(
        temperature=temperature,
        step_size=float(kernel.step_size),
        draws_per_second=2 * draws / seconds,
        r_hat=max(float(site["r_hat"].max()) for site in worst),
        ess=min(float(site["n_eff"].min()) for site in worst),
        divergences=sum(map(len, diagnostics["divergences"].values())),
        bfmi=None,
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
    page.show(flowers.draw(results, measures), "nuts_on_relaxed_pyro")

# %% [markdown]
# Read the rows from the top. A lower temperature brings the hardened draws nearer to
# the exact probabilities, until the noise of the sampler hides the remaining
# difference; a single step down may be hidden by it. In exchange, the steps of NUTS
# become shorter, and each draw needs more of them. The row with the kinds
# marginalized out has the largest step and the most independent draws. Two hundred
# draws are few for the relaxed rows: where `r_hat` is not near one, draw more samples
# before you rely on the row.
#
# Where the discrete sites can be marginalized out, do that. Where they cannot, start
# at a temperature of one half, and halve it until the results no longer change or the
# diagnostics get worse.
