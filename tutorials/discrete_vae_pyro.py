# %% [markdown]
# # A discrete variational autoencoder in Pyro
#
# We fit a generative model of small digits whose latent variables are all discrete: a
# layer of one-hot variables, and below it a layer of binary variables. The model and
# its guide are ordinary Pyro programs. They are trained twice, with the same
# optimizer and the same number of steps: with score-function gradients, which is what
# Pyro does with discrete variables, and relaxed. Both are evaluated by the same
# number, the discrete ELBO on test images.
#
# Run it as `python tutorials/discrete_vae_pyro.py`, with `--short` for a quick look
# that trains for a few steps. The NumPyro version is `discrete_vae_numpyro.py`.

# %%
import time

import digits
import figures
import numpy as np
import page
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from pyro.optim import Adam
from pyro.poutine import replay, trace, uncondition
from tqdm import tqdm

from pyro_concrete import harden, relax, relaxation_gap

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
# The layers are written with `pyro.param` rather than `torch.nn`, which keeps this
# page and its counterpart the same line by line.

# %%
KINDS, VALUES = 20, 4
STROKES = 100
HIDDEN = 128


def dense(name, x, size):
    """An affine layer, with initial weights of variance 1 / (number of inputs)."""
    shape = (x.shape[-1], size)
    weights = pyro.param(
        name + ".weights", lambda: torch.randn(shape) / shape[0] ** 0.5
    )
    return x @ weights + pyro.param(name + ".bias", lambda: torch.zeros(size))


def model(images):
    """Sample or score images; return the expected share of dark points by pixel."""
    prior = pyro.param("prior", lambda: torch.zeros(KINDS, VALUES))
    with pyro.plate("images", len(images)):
        kind = pyro.sample("kind", dist.OneHotCategorical(logits=prior).to_event(1))
        kind = kind.flatten(-2)
        hidden = dense("model.kind", kind, HIDDEN).tanh()
        logits = dense("model.stroke", hidden, STROKES)
        stroke = pyro.sample("stroke", dist.Bernoulli(logits=logits).to_event(1))
        hidden = dense("model.hidden", torch.cat([kind, stroke], -1), HIDDEN).tanh()
        logits = dense("model.pixels", hidden, digits.PIXELS)
        pixel = dist.Binomial(digits.LEVELS, logits=logits)
        pyro.sample("pixels", pixel.to_event(1), obs=images)
    return logits.sigmoid()


# %% [markdown]
# ## The guide
#
# The guide goes the other way: the binary variables given the image, then the one-hot
# variables given the binary variables and the image. It shares no parameter with the
# model. `BASELINE` concerns the score-function gradients only: it lets Pyro subtract
# a running average of the cost, its usual remedy for their variance.

# %%
BASELINE = {"baseline": {"use_decaying_avg_baseline": True}}


def guide(images):
    """Sample the latent variables given the images."""
    with pyro.plate("images", len(images)):
        hidden = dense("guide.hidden", 2 * images / digits.LEVELS - 1, HIDDEN).tanh()
        logits = dense("guide.stroke", hidden, STROKES)
        strokes = dist.Bernoulli(logits=logits).to_event(1)
        stroke = pyro.sample("stroke", strokes, infer=BASELINE)
        logits = dense("guide.kind", torch.cat([hidden, stroke], -1), KINDS * VALUES)
        one_hots = dist.OneHotCategorical(logits=logits.unflatten(-1, (KINDS, VALUES)))
        pyro.sample("kind", one_hots.to_event(1), infer=BASELINE)


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
# The baseline is `TraceGraph_ELBO`, Pyro's objective for score-function gradients: it
# uses for each layer only the terms of the ELBO that the layer can influence, and
# subtracts the running averages that the guide asks for.


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


@torch.no_grad()
def discrete_elbo(guide, images):
    """An estimate of the discrete ELBO, in nats per image."""
    elbo = Trace_ELBO(num_particles=PARTICLES)
    return -elbo.loss(model, harden(guide), images) / len(images)


# %% [markdown]
# ## Training
#
# Both methods use the same minibatches in the same order. The discrete ELBO of the
# test images is evaluated twenty times during the training. The learning rate is one
# that suits the score function. Pyro's checks of every distribution's parameters and
# values are switched off inside the loop, where they cost much of the time; NumPyro
# is used without them by default.

# %%
BATCH = 200
RATE = 5e-3
STEPS = 1000
PAUSES = 20


def train(method, images, test_images, steps, temperatures=TEMPERATURES):
    """Train from scratch. Parameters stay in Pyro's store."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide, objective = programs(method, temperatures)
    svi = SVI(model, guide, Adam({"lr": RATE}), loss=objective)
    record = figures.Record()
    rows = torch.as_tensor(digits.minibatches(len(images), BATCH, steps))
    pauses = min(PAUSES, -(-steps // 10))
    with tqdm(total=steps, desc=f"Pyro, {method}", unit="step", disable=None) as bar:
        for chunk in rows.tensor_split(pauses):
            start = time.perf_counter()
            with pyro.validation_enabled(False):
                losses = [svi.step(images[batch]) for batch in chunk]
            seconds = time.perf_counter() - start
            record.add(
                steps=len(chunk),
                seconds=seconds,
                objective=-np.mean(losses) / BATCH,
                discrete=discrete_elbo(guide, test_images),
            )
            bar.update(len(chunk))
    return guide, record


# %% [markdown]
# ## Reconstructions and samples
#
# The images are discrete, too. A reconstruction shows the pixels that the model
# expects given one discrete sample of the hardened guide; a sample from the prior is
# one of the model without data.


# %%
@torch.no_grad()
def reconstruct(guide, images):
    """The pixels expected given a discrete sample of the guide."""
    latents = trace(harden(guide)).get_trace(images)
    return replay(model, trace=latents)(images).numpy()


@torch.no_grad()
def sample_prior(num):
    """The pixels expected given a discrete sample of the prior."""
    return uncondition(model)(torch.zeros(num, digits.PIXELS)).numpy()


# %% [markdown]
# The following function does all of this for one method. The standard error of the
# discrete ELBO comes from repeating the estimate; it is that of sampling the latent
# variables, for these test images and this training run.

# %%
REPEATS = 20


def run(method, steps=STEPS):
    """Train and evaluate by one method."""
    torch.set_num_threads(1)  # the arrays are too small to share the work
    images, test_images = (torch.as_tensor(x) for x in digits.load())
    guide, record = train(method, images, test_images, steps)
    elbos = [discrete_elbo(guide, test_images) for _ in range(REPEATS)]
    return figures.Result(
        backend="Pyro",
        method=method,
        record=record,
        discrete=np.mean(elbos),
        stderr=np.std(elbos, ddof=1) / REPEATS**0.5,
        reconstructions=reconstruct(guide, torch.as_tensor(digits.examples())),
        samples=sample_prior(figures.SAMPLES),
        guide=guide,
        params=pyro.get_param_store().get_state(),
    )


# %% [markdown]
# ## The result

# %%
if __name__ == "__main__":
    short = page.options().short
    steps = 60 if short else STEPS
    results = [run(method, steps) for method in ("relaxed", "score function")]
    print(figures.table(results, speed=not page.in_notebook()))
    page.show(figures.draw(results), "discrete_vae_pyro")

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
    pyro.get_param_store().set_state(result.params)
    of_model, _ = TEMPERATURES
    programs = relax(model, of_model, scoring="concrete"), result.guide, model
    settings = {"num_particles": num_particles, "chunk_size": 10, "plate": "images"}
    images = torch.as_tensor(digits.load()[1])
    with pyro.validation_enabled(False):
        return relaxation_gap(*programs, images, **settings)


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
    both = [torch.as_tensor(x) for x in digits.load()]
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
