# %% [markdown]
# # A discrete variational autoencoder in NumPyro
#
# We fit a generative model of small digits whose latent variables are all discrete: a
# layer of one-hot variables, and below it a layer of binary variables. The model and
# its guide are ordinary NumPyro programs. They are trained twice, with the same
# optimizer and the same number of steps: with score-function gradients, which is what
# NumPyro does with discrete variables, and relaxed. Both are evaluated by the same
# number, the discrete ELBO on test images.
#
# Run it as `python tutorials/discrete_vae_numpyro.py`, with `--short` for a quick
# look that trains for a few steps. The Pyro version is `discrete_vae_pyro.py`.

# %%
import time
from functools import partial

import digits
import figures
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import page
from jax import lax, random
from numpyro.handlers import replay, seed, substitute, trace, uncondition
from numpyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from numpyro.optim import Adam
from tqdm import tqdm

from numpyro_concrete import OneHotCategorical, harden, relax, relaxation_gap

# %% [markdown]
# ## The model
#
# A pixel of scikit-learn's digits is a count: how many points of a 4 by 4 block of
# the scanned digit are dark. So its distribution is binomial with 16 trials. From the
# top:
#
# - `kind`: twenty one-hot variables with four values each, and a learned prior;
# - `stroke`: a hundred binary variables, by a network with one hidden layer from
#   `kind`;
# - `pixels`: 64 counts, by another such network from both.
#
# The layers are written with `numpyro.param` rather than a network library, which
# keeps this page and its counterpart the same line by line. NumPyro has no one-hot
# distribution, so `OneHotCategorical` comes from `numpyro_concrete`.

# %%
KINDS, VALUES = 20, 4
STROKES = 100
HIDDEN = 128


def dense(name, x, size):
    """An affine layer, with initial weights of variance 1 / (number of inputs)."""
    shape = (x.shape[-1], size)
    weights = numpyro.param(
        name + ".weights", lambda key: random.normal(key, shape) / shape[0] ** 0.5
    )
    return x @ weights + numpyro.param(name + ".bias", lambda _: jnp.zeros(size))


def model(images):
    """Sample or score images; return the expected share of dark points by pixel."""
    prior = numpyro.param("prior", lambda _: jnp.zeros((KINDS, VALUES)))
    with numpyro.plate("images", len(images)):
        kind = numpyro.sample("kind", OneHotCategorical(logits=prior).to_event(1))
        kind = kind.reshape(*kind.shape[:-2], KINDS * VALUES)
        hidden = jnp.tanh(dense("model.kind", kind, HIDDEN))
        logits = dense("model.stroke", hidden, STROKES)
        stroke = numpyro.sample("stroke", dist.Bernoulli(logits=logits).to_event(1))
        both = jnp.concatenate([kind, stroke], -1)
        hidden = jnp.tanh(dense("model.hidden", both, HIDDEN))
        logits = dense("model.pixels", hidden, digits.PIXELS)
        pixel = dist.Binomial(digits.LEVELS, logits=logits)
        numpyro.sample("pixels", pixel.to_event(1), obs=images)
    return jax.nn.sigmoid(logits)


# %% [markdown]
# ## The guide
#
# The guide goes the other way: the binary variables given the image, then the one-hot
# variables given the binary variables and the image. It shares no parameter with the
# model.


# %%
def guide(images):
    """Sample the latent variables given the images."""
    with numpyro.plate("images", len(images)):
        hidden = jnp.tanh(dense("guide.hidden", 2 * images / digits.LEVELS - 1, HIDDEN))
        logits = dense("guide.stroke", hidden, STROKES)
        stroke = numpyro.sample("stroke", dist.Bernoulli(logits=logits).to_event(1))
        both = jnp.concatenate([hidden, stroke], -1)
        logits = dense("guide.kind", both, KINDS * VALUES)
        logits = logits.reshape(*logits.shape[:-1], KINDS, VALUES)
        numpyro.sample("kind", OneHotCategorical(logits=logits).to_event(1))


# %% [markdown]
# ## Why discrete variables are hard
#
# Training maximizes the ELBO, an expectation over the guide's samples. A continuous
# sample can be written as a differentiable function of noise, and the gradient then
# goes through the sample: it gives each latent variable a direction. A discrete
# sample is not differentiable. Two general methods remain:
#
# - sum over all values, which is exact. Here one image has $4^{20} \cdot 2^{100}$ of
#   them;
# - the score function: raise the probability of samples that did better than others.
#   It is unbiased, but all latent variables of an image share one number, the ELBO of
#   the image, so the gradient is mostly noise.
#
# ## Relaxing
#
# The third method replaces each discrete variable by a Concrete one: a point between
# the values, close to one of them when the temperature is low, and a differentiable
# function of noise. `relax` does this without changes to the model: the first two
# functions below are `model` and `guide` with other sample statements.
#
# The temperatures of the model and the guide are separate choices. The paper settled
# on 1/2 for the prior and 2/3 for the posterior for binary variables, and on pairs
# from 2/5 and 2/3 to 2/3 and 1 for variables with more values. Here 2/5 and 2/3 serve
# both layers. The end of this page tries others. To give each layer its own, relax
# twice:
#
# ```
# relax(relax(model, 1 / 2, sites=["stroke"]), 2 / 3, sites=["kind"])
# ```
#
# The baseline is `TraceGraph_ELBO`, NumPyro's objective for score-function gradients:
# it judges each layer only by the terms of the ELBO that the layer can influence.
# Pyro's objective of this name also subtracts a running average of the cost, which
# NumPyro's cannot; this is why the same method does better in the counterpart.


# %%
TEMPERATURES = (2 / 5, 2 / 3)


def programs(method, temperatures=TEMPERATURES):
    """The model and guide to train, and the objective."""
    if method == "relaxed":
        of_model, of_guide = temperatures
        relaxed = relax(model, of_model, scoring="concrete")
        return relaxed, relax(guide, of_guide, scoring="concrete"), Trace_ELBO()
    return model, guide, TraceGraph_ELBO()


# %% [markdown]
# ## Two ELBOs
#
# Training maximizes the ELBO of the relaxed model and guide. It is a bound on the
# evidence of another model, whose latent variables are continuous. It can be larger
# or smaller than the discrete ELBO of the same parameters, so never compare the two,
# or report one instead of the other.
#
# The discrete ELBO is that of the unmodified model with `harden(guide)`, the discrete
# counterpart of the relaxed guide. This is not an approximation: the largest
# coordinate of a Concrete sample has exactly the distribution of the discrete
# variable, at any temperature. `harden` leaves a discrete guide unchanged, so one
# function evaluates both methods.

# %%
PARTICLES = 10


@partial(jax.jit, static_argnums=2)
def discrete_elbo(key, params, guide, images):
    """An estimate of the discrete ELBO, in nats per image."""
    elbo = Trace_ELBO(num_particles=PARTICLES)
    return -elbo.loss(key, params, model, harden(guide), images) / len(images)


# %% [markdown]
# ## Training
#
# Both methods use the same minibatches in the same order. The discrete ELBO of the
# test images is evaluated twenty times during the training. The learning rate is one
# that suits the score function. The steps between two pauses are one compiled loop.

# %%
BATCH = 200
RATE = 5e-3
STEPS = 1000
PAUSES = 20


def train(method, images, test_images, steps, temperatures=TEMPERATURES):
    """Train from scratch."""
    model, guide, objective = programs(method, temperatures)
    svi = SVI(model, guide, Adam(RATE), loss=objective)
    state = svi.init(random.key(0), images[:BATCH])

    @jax.jit
    def train_on(chunk, state):
        return lax.scan(
            lambda state, rows: svi.update(state, images[rows]), state, chunk
        )

    record = figures.Record()
    rows = digits.minibatches(len(images), BATCH, steps)
    pauses = min(PAUSES, -(-steps // 10))
    with tqdm(total=steps, desc=f"NumPyro, {method}", unit="step", disable=None) as bar:
        for chunk in np.array_split(rows, pauses):
            start = time.perf_counter()
            state, losses = jax.block_until_ready(train_on(chunk, state))
            seconds = time.perf_counter() - start
            params = svi.get_params(state)
            record.add(
                steps=len(chunk),
                seconds=seconds,
                objective=-losses.mean() / BATCH,
                discrete=discrete_elbo(random.key(1), params, guide, test_images),
            )
            bar.update(len(chunk))
    return guide, params, record


# %% [markdown]
# ## Reconstructions and samples
#
# The images are discrete, too. A reconstruction shows the pixels that the model
# expects given one discrete sample of the hardened guide; a sample from the prior is
# one of the model without data.


# %%
def reconstruct(key, params, guide, images):
    """The pixels expected given a discrete sample of the guide."""
    hard = seed(substitute(harden(guide), data=params), key)
    latents = trace(hard).get_trace(images)
    return np.asarray(replay(substitute(model, data=params), trace=latents)(images))


def sample_prior(key, params, num):
    """The pixels expected given a discrete sample of the prior."""
    free = uncondition(seed(substitute(model, data=params), key))
    return np.asarray(free(jnp.zeros((num, digits.PIXELS))))


# %% [markdown]
# The following function does all of this for one method. The standard error of the
# discrete ELBO comes from repeating the estimate; it is that of sampling the latent
# variables, for these test images and this training run.

# %%
REPEATS = 20


def run(method, steps=STEPS):
    """Train and evaluate by one method."""
    images, test_images = (jnp.asarray(x) for x in digits.load())
    guide, params, record = train(method, images, test_images, steps)
    keys = random.split(random.key(2), REPEATS)
    elbos = [discrete_elbo(key, params, guide, test_images) for key in keys]
    return figures.Result(
        backend="NumPyro",
        method=method,
        record=record,
        discrete=np.mean(elbos),
        stderr=np.std(elbos, ddof=1) / REPEATS**0.5,
        reconstructions=reconstruct(random.key(3), params, guide, digits.examples()),
        samples=sample_prior(random.key(4), params, figures.SAMPLES),
        guide=guide,
        params=params,
    )


# %% [markdown]
# ## The result

# %%
if __name__ == "__main__":
    short = page.options().short
    steps = 60 if short else STEPS
    results = [run(method, steps) for method in ("relaxed", "score function")]
    print(figures.table(results, speed=not page.in_notebook()))
    page.show(figures.draw(results), "discrete_vae_numpyro")

# %% [markdown]
# Compare the two rows in the column of the discrete ELBO only. The relaxed training
# gets further in the same number of steps because each step has a gradient for every
# latent variable. But its gradient is biased for the discrete ELBO. The noise of the
# score function averages out over time, and a bias does not: with many more steps, or
# many samples per step, the order may change.
#
# ## How far from discrete
#
# `relaxation_gap` reports the relaxed and the discrete ELBO, and the multi-sample
# bound that the paper reports; all are sums over the test images. The second table
# shows for each layer whether its samples are still soft. `entropy` is the entropy of
# the guide's discrete distributions, that is, its uncertainty. `softness` is the
# entropy of the samples that the relaxed model receives. It would be zero for one-hot
# samples. A larger value is information that the decoder uses and that the discrete
# model does not have.

# %%
PARTICLES_OF_GAP = 100


def gap(result, num_particles):
    """Compare the relaxed programs and the discrete ones, on the test images."""
    of_model, _ = TEMPERATURES
    programs = relax(model, of_model, scoring="concrete"), result.guide, model
    settings = {"num_particles": num_particles, "chunk_size": 10, "plate": "images"}
    images = jnp.asarray(digits.load()[1])
    return relaxation_gap(random.key(5), result.params, *programs, images, **settings)


if __name__ == "__main__":
    print(gap(results[0], 10 if short else PARTICLES_OF_GAP))

# %% [markdown]
# ## Temperatures
#
# The temperature is a trade-off. If it is high, samples are far from the corners:
# gradients have little noise, and the relaxed model is far from the discrete one. If
# it is low, the opposite holds. A few short trainings show this. The relaxed ELBOs of
# different temperatures belong to different models, so compare the rows by the
# discrete ELBO.

# %%
PAIRS = ((2.0, 2.0), TEMPERATURES, (1 / 10, 1 / 10))
SWEEP = 300


def sweep(pairs, steps):
    """Train for a while at each pair of temperatures."""
    both = [jnp.asarray(x) for x in digits.load()]
    return {pair: train("relaxed", *both, steps, pair)[-1] for pair in pairs}


if __name__ == "__main__":
    records = sweep(PAIRS[:1] if short else PAIRS, 20 if short else SWEEP)
    print(figures.temperatures(records))

# %% [markdown]
# The paper's pair is a safe start. `gradient_report` measures the bias and the noise
# of the gradients of your own model at several temperatures, and `schedules` anneals
# the temperature.
#
# As a next step, try other temperatures, another learning rate, or other latent
# layers. `relax` needs no changes for them.
