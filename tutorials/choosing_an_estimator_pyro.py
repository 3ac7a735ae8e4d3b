# %% [markdown]
# # Choosing an estimator and a temperature, in Pyro
#
# There are several ways to pass a gradient through a discrete variable, and most have
# a temperature. None is the best for all models. This page measures them on one
# model: first the bias and the noise of the gradients, then the effect of the
# temperature, then the effect on training. The last section says when not to relax.
#
# Run it as `python tutorials/choosing_an_estimator_pyro.py`, with `--short` for a
# quick look that trains for a few steps. The NumPyro version is
# `choosing_an_estimator_numpyro.py`.

# %%
import time

import curves
import numpy as np
import page
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.optim import Adam

from pyro_concrete import (
    REBAR,
    RLOO,
    DisARM,
    GumbelRao,
    ReinMax,
    Relaxed,
    StraightThrough,
    gradient_report,
    plan_sites,
    relax,
    schedules,
)

SHORT = page.options().short
torch.set_num_threads(1)  # the arrays are too small to share the work

# %% [markdown]
# ## A model that can be enumerated
#
# A small autoencoder of scikit-learn's digits, with black and white pixels: five
# binary variables for each image, and a network with one hidden layer from the binary
# variables to the pixels. Given an image the binary variables depend on each other,
# and their 32 combinations can still be summed over. So we know the exact discrete
# ELBO and its exact gradient, and can compare everything else with them.

# %%
BITS, HIDDEN = 5, 24
IMAGES = 20 if SHORT else 100
images = torch.as_tensor(curves.images(IMAGES))
PIXELS = images.shape[-1]


def param(name, *shape):
    """A parameter of this shape, of variance 1 / (number of inputs)."""
    return pyro.param(name, lambda: torch.randn(shape) / shape[0] ** 0.5)


def model(images):
    """Five binary variables, and the pixels that they make."""
    hidden = pyro.param("model.base", lambda: torch.zeros(HIDDEN))
    prior = pyro.param("model.prior", lambda: torch.zeros(BITS))
    weights = param("model.bits", BITS, HIDDEN)
    with pyro.plate("images", len(images)):
        for i in range(BITS):
            bit = pyro.sample(f"bit_{i}", dist.Bernoulli(logits=prior[i]))
            hidden = hidden + bit.unsqueeze(-1) * weights[i]
        logits = hidden.tanh() @ param("model.pixels", HIDDEN, PIXELS)
        logits = logits + pyro.param("model.bias", lambda: torch.zeros(PIXELS))
        pyro.sample("pixels", dist.Bernoulli(logits=logits).to_event(1), obs=images)


def guide(images):
    """The binary variables given the image, each by itself."""
    hidden = (images @ param("guide.pixels", PIXELS, HIDDEN)).tanh()
    logits = hidden @ param("guide.bits", HIDDEN, BITS)
    with pyro.plate("images", len(images)):
        for i in range(BITS):
            pyro.sample(f"bit_{i}", dist.Bernoulli(logits=logits[:, i]))


# %% [markdown]
# `TraceEnum_ELBO` with the sites of the guide enumerated is the exact discrete ELBO.
# Training with it has no bias and no noise from the discrete sites.

# %%
STEPS, PAUSES = (6, 2) if SHORT else (300, 15)
RATE = 0.02
EXACT_ELBO = TraceEnum_ELBO(max_plate_nesting=1)
enumerated = config_enumerate(guide)


@torch.no_grad()
def exact_elbo():
    """The discrete ELBO of the present parameters, in nats an image."""
    return -EXACT_ELBO.loss(model, enumerated, images) / IMAGES


def train(model, guide, elbo, steps=STEPS):
    """Train from scratch; pause for the exact discrete ELBO."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, schedules.count_steps(Adam({"lr": RATE})), elbo)
    done, elbos, times = [], [], []
    with pyro.validation_enabled(False):
        for step in range(1, steps + 1):
            start = time.process_time()
            svi.step(images)
            times.append(time.process_time() - start)
            if step % (steps // PAUSES) == 0:
                done.append(step)
                elbos.append(exact_elbo())
    return curves.Curve(done, elbos, 1000 * np.median(times))


# %% [markdown]
# ## The gradients
#
# `gradient_report` takes the discrete model and guide, relaxes them with each
# estimator at each temperature, and compares many gradients with the exact one. It
# works for your own model, too: where enumeration is impossible, its reference is the
# mean of many draws of an unbiased estimator. The report is valid at the current
# parameters, which here are those after a fifth of the training.
#
# `scoring="discrete"` makes `Relaxed` and `StraightThrough` estimate the gradient of
# the discrete ELBO, like the other two. The unbiased objectives need no relaxation
# and no temperature.

# %%
SAMPLES = 5 if SHORT else 200
TEMPERATURES = (1 / 2, 1.0) if SHORT else (1 / 4, 1 / 2, 1.0)
train(model, enumerated, EXACT_ELBO, steps=PAUSES if SHORT else STEPS // 5)
report = gradient_report(
    model,
    guide,
    images,
    estimators=[Relaxed(), StraightThrough(), GumbelRao(10), ReinMax()],
    temperatures=TEMPERATURES,
    scoring="discrete",
    objectives={"RLOO": RLOO(), "DisARM": DisARM(), "REBAR": REBAR()},
    num_samples=SAMPLES,
)
print(report)

# %%
page.show(curves.draw_report(report), "choosing_an_estimator_pyro_report")

# %% [markdown]
# Read bias and variance together. The mean squared error of one draw is the squared
# bias plus the variance. More draws, larger minibatches and more steps reduce the
# variance, but not the bias.
#
# - At a lower temperature, the bias of `Relaxed` is smaller and its noise larger,
#   because the sample is nearly a step function of the noise. Choosing a temperature
#   means choosing between the two.
# - `StraightThrough` and `GumbelRao` have the same bias. The second has less noise
#   and takes longer. It averages over relaxed samples with the same discrete value.
# - `ReinMax` is best at temperature one, where it is exact for quadratic functions.
#   At lower temperatures it is neither exact nor low in noise.
# - `RLOO`, `DisARM` and `REBAR` have no bias. One draw of each evaluates the model
#   twice, as the column "rel." shows. With a few binary variables per image, their
#   noise can be less than that of the biased estimators. It grows with the number of
#   sites that share one value of the ELBO.
#
# A "< 5 SE" in the column "sig." means that the measured bias is not significant. It
# does not mean that there is no bias.
#
# ## Temperatures
#
# The paper recommends constant temperatures, one for the posterior and a lower one
# for the prior. For binary variables it settled on 2/3 and 1/2; for four values on 1
# and 2/3, for eight on 2/3 and 2/5; and 2/3 as a single value for all of these. It
# found no gain from annealing. A temperature of at most 1/(n - 1) for n values keeps
# the modes of the density at the corners.
#
# `schedules` has two alternatives. `Exponential` anneals the temperature, for
# gradients with little noise at first and a small bias at the end. `Learned` makes it
# a parameter. Learn only the temperature of the guide, and only with concrete
# scoring: then every temperature of the guide gives a bound for the same
# relaxed model, and a higher bound means a better guide. A learned temperature of the
# model would change the model instead.

# %%
falling = schedules.Exponential(1.0, 1 / 5, num_steps=STEPS)
learned = schedules.Learned(2 / 3, name="guide.temperature")
AT = {
    "2/3, prior 1/2": (1 / 2, 2 / 3),
    "1/10": (1 / 10, 1 / 10),
    "falls from 1 to 1/5": (falling, falling),
    "learned, prior 1/2": (1 / 2, learned),
}
exact = train(model, enumerated, EXACT_ELBO)
by_temperature = {curves.EXACT: exact}
for name, (prior, posterior) in AT.items():
    programs = (
        relax(model, prior, scoring="concrete"),
        relax(guide, posterior, scoring="concrete"),
    )
    by_temperature[name] = train(*programs, Trace_ELBO())
print(curves.table(by_temperature))
print(f"\nlearned temperature: {pyro.param('guide.temperature').item():.2f}")

# %% [markdown]
# All numbers are exact discrete ELBOs. The relaxed ELBOs of these trainings belong to
# different relaxed models, and do not say which is best.
#
# ## Training
#
# The same model and guide are trained with each estimator: relaxed samples with
# Concrete densities at the paper's temperatures, and one-hot samples at temperature
# one. The number of steps, the learning rate and the initial parameters are the same.

# %%
HARD = (StraightThrough(), GumbelRao(10), ReinMax())
by_estimator = {curves.EXACT: exact, "Relaxed": by_temperature["2/3, prior 1/2"]}
for estimator in HARD:
    how = {"estimator": estimator, "scoring": "discrete"}
    programs = relax(model, 1.0, **how), relax(guide, 1.0, **how)
    by_estimator[type(estimator).__name__] = train(*programs, Trace_ELBO())
for objective in (RLOO(), DisARM(), REBAR()):
    by_estimator[type(objective).__name__] = train(model, guide, objective)
print(curves.table(by_estimator))
figure = curves.draw_curves(
    {"temperatures of Relaxed": by_temperature, "estimators": by_estimator}
)
page.show(figure, "choosing_an_estimator_pyro")

# %% [markdown]
# Compare this with the report. A small bias with little noise makes fast progress at
# first. Noise averages out over the steps, if there are enough of them, and a bias
# remains. So the order early in training need not be the order at its end. On this
# model the unbiased estimators are ahead, as the report suggests. The differences
# between the others are small, and one training from one start is no ranking.
#
# ## When not to relax
#
# This model does not need relaxation: its enumerated sites fit into memory, as
# `plan_sites` reports.

# %%
plan = plan_sites(model, args=(images,))
print("enumerate:", plan.enumerated)
print("relax:", plan.relaxed)
print(f"largest tensor: {plan.cost_after:,} elements of a budget of {plan.budget:,}")

# %% [markdown]
# - If the sites can be enumerated, enumerate them. If some can, enumerate those: that
#   is the tutorial *Enumerate what you can, relax what you can't*.
# - If a bias is not acceptable, as at the end of training, use `RLOO` with many
#   particles, `DisARM` for binary variables, or `REBAR` where the likelihood is
#   smooth in the relaxed values. Training can start relaxed and end without bias,
#   because the parameters are the same.
# - If the model makes no sense at soft values, use a straight-through estimator, or
#   do not relax.
# - Otherwise relax, with the paper's temperatures first, and use `gradient_report` to
#   compare other choices.
