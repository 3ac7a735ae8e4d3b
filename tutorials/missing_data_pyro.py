# %% [markdown]
# # Missing discrete data, in Pyro
#
# A regression needs all of its inputs, and in a survey some answers are always missing.
# A model of the answers turns the missing ones into latent variables, about which the
# outcome carries information. They are discrete, so training with gradients requires
# enumerating or relaxing them. This short example relaxes them, with `obs_mask` telling
# Pyro which
# answers are known. It shows where a single sample is not enough and `IWAE` helps, and
# compares the result with what one does without a model.
#
# The example makes its own data. Run it as `python tutorials/missing_data_pyro.py`,
# with `--short` for a few steps. The NumPyro version is `missing_data_numpyro.py`.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import page
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy import special, stats

from pyro_concrete import IWAE, AutoConcrete, relax, schedules

STEPS = 20 if page.options().short else 2000

# %% [markdown]
# ## A survey with holes
#
# Each of 300 people is asked eight yes-or-no questions, and has an outcome that is
# linear in the answers. One answer in five is missing, and most rows have a hole.

# %%
PEOPLE, QUESTIONS, NOISE = 300, 8, 0.7
rng = np.random.default_rng(0)
true_slopes = np.array([2.0, -1.5, 1.0, -1.0, 0.8, 0.5, 0.0, 0.0])
rates = rng.uniform(0.2, 0.8, QUESTIONS)
truth = (rng.random((PEOPLE, QUESTIONS)) < rates).astype(float)
outcome = 1.0 + truth @ true_slopes + NOISE * rng.normal(size=PEOPLE)
is_known = rng.random((PEOPLE, QUESTIONS)) < 0.8
answers = np.where(is_known, truth, 0.0)  # the zeros in the holes are never read
print(f"complete rows: {is_known.all(1).sum()} of {PEOPLE}")

# %% [markdown]
# ## The model
#
# `pyro.sample` with `obs_mask` returns the known answers as they are, and makes a
# latent site, `answer_unobserved`, of the others. The rest is an ordinary regression.

# %%


def model(answers, is_known, outcome):
    """Answers, of which some are known, and an outcome that depends on all."""
    logits = pyro.param("logits", torch.zeros(QUESTIONS))
    scale = pyro.param("log_scale", torch.tensor(0.0)).exp()
    slopes = pyro.param("slopes", torch.zeros(QUESTIONS))
    constant = pyro.param("constant", torch.tensor(0.0))
    with pyro.plate("people", len(answers), dim=-2):
        with pyro.plate("questions", QUESTIONS, dim=-1):
            bernoulli = dist.Bernoulli(logits=logits)
            answer = pyro.sample("answer", bernoulli, obs=answers, obs_mask=is_known)
        mean = constant + (answer * slopes).sum(-1, keepdim=True)
        pyro.sample("outcome", dist.Normal(mean, scale), obs=outcome[:, None])


# %% [markdown]
# ## Training
#
# `AutoConcrete` has probabilities for each missing answer, as if the answers were
# independent: if one of two answers was yes and the other no, but it is unknown which,
# the guide has to settle on one possibility. Training with the ELBO then fits the
# regression to the possibilities that the guide settled on, and the slopes are biased.
# `IWAE` draws ten samples of each row, and weights them by how well they explain it,
# which corrects much of this.

# %%
arguments = [torch.as_tensor(x) for x in (answers, is_known, outcome)]
relaxed = relax(model, schedules.Exponential(0.5, 0.1, num_steps=STEPS))


def train(loss):
    """Train from the start; return the guide and the parameters of the model."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = AutoConcrete(relaxed)
    optim = schedules.count_steps(pyro.optim.Adam({"lr": 0.03}))
    svi = SVI(relaxed, guide, optim, loss)
    with pyro.validation_enabled(False):
        for _ in range(STEPS):
            svi.step(*arguments)
    store = pyro.get_param_store()
    names = "logits", "log_scale", "slopes", "constant"
    return guide, {name: store[name].detach().numpy() for name in names}


_, by_elbo = train(Trace_ELBO())
guide, params = train(IWAE(10, plate="people"))

# %% [markdown]
# ## The slopes
#
# Least squares on the complete rows leaves out most of the data. Filling each hole with
# the mean answer to its question keeps all rows, but what is not known adds to the
# noise. The first line of the output shows what one could learn if there were no holes.

# %%


def least_squares(inputs, outputs):
    """The slopes of a linear regression."""
    columns = np.column_stack([inputs, np.ones(len(inputs))])
    return np.linalg.lstsq(columns, outputs, rcond=None)[0][:-1]


complete = is_known.all(1)
means = answers.sum(0) / is_known.sum(0)
filled = np.where(is_known, answers, means)
estimates = {
    "without holes": least_squares(truth, outcome),
    "complete rows": least_squares(truth[complete], outcome[complete]),
    "holes filled with means": least_squares(filled, outcome),
    "relaxed, ELBO": by_elbo["slopes"],
    "relaxed, IWAE": params["slopes"],
}
for name, slopes in estimates.items():
    error = np.sqrt(np.mean((slopes - true_slopes) ** 2))
    print(f"{name:24} root mean squared error of the slopes {error:.3f}")

# %% [markdown]
# ## The missing answers
#
# A row with k holes can be filled in 2^k ways. These are few enough to compute the
# exact probabilities of the answers at the learned parameters.

# %%


def exact_probabilities():
    """The probability of yes in each hole, summed over the ways to fill its row."""
    constant, slopes = params["constant"], params["slopes"]
    scale, rates = np.exp(params["log_scale"]), special.expit(params["logits"])
    probs = answers.copy()
    for person in range(PEOPLE):
        holes = np.flatnonzero(~is_known[person])
        ways = np.array([*itertools.product((0.0, 1.0), repeat=len(holes))])
        rows = np.tile(answers[person], (len(ways), 1))
        rows[:, holes] = ways
        score = stats.norm.logpdf(outcome[person], constant + rows @ slopes, scale)
        score = score + stats.bernoulli.logpmf(ways, rates[holes]).sum(1)
        weights = np.exp(score - score.max())
        probs[person, holes] = weights @ ways / weights.sum()
    return probs


yes = {
    "the mean answer": np.broadcast_to(means, truth.shape),
    "exact": exact_probabilities(),
    "the guide": guide.probabilities()["answer_unobserved"][..., 1].detach().numpy(),
}
for name, probs in yes.items():
    share = ((probs > 0.5) == truth)[~is_known].mean()
    print(f"{name:16} fills {share:.0%} of the holes correctly")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for name, marker in (
    ("holes filled with means", "x"),
    ("relaxed, ELBO", "+"),
    ("relaxed, IWAE", "o"),
):
    left.plot(true_slopes, estimates[name], marker, fillstyle="none", label=name)
left.axline((0, 0), slope=1, color="gray", linewidth=0.8)
left.set(xlabel="true slope", ylabel="estimate", title="Slopes")
left.legend()
right.plot(yes["exact"][~is_known], yes["the guide"][~is_known], ".", alpha=0.4)
right.set(xlabel="exact", ylabel="guide", title="Probability of yes in a hole")
page.show(figure, "missing_data_pyro")

# %% [markdown]
# If each row has few holes, enumeration is possible, too, and exact. Relaxing takes the
# same time however many there are.
