# %% [markdown]
# # Topics of documents, in NumPyro
#
# In latent Dirichlet allocation (LDA, [Blei, Ng and Jordan,
# 2003](https://www.jmlr.org/papers/v3/blei03a.html)), each word of a document has a
# topic, an integer that selects a row of a table of word probabilities. This short
# example relaxes the topics of all words and trains on minibatches of documents, with
# a guide that also serves new documents. In this model, enumeration can marginalize out
# the topics, which lets us check the result.
#
# The example makes its own data. Run it as
# `python tutorials/lda_numpyro.py`, with `--short` for a few steps. The Pyro version
# is `lda_pyro.py`.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import page
from jax import random
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from scipy.optimize import linear_sum_assignment

from numpyro_concrete import harden, relax

STEPS = 20 if page.options().short else 2000

# %% [markdown]
# ## Documents whose topics can be seen
#
# The 16 words are the cells of a square, and a topic is one of its rows or columns, as
# in [Griffiths and Steyvers, 2004](https://doi.org/10.1073/pnas.0307752101). Each of
# the 400 documents has 20 words, most of them from one or two topics.

# %%
SIDE, LENGTH = 4, 20
TOPICS, VOCABULARY = 2 * SIDE, SIDE**2


def bars():
    """Word probabilities of the topics that made the data: (topics, vocabulary)."""
    square = np.eye(SIDE)[:, :, None] * np.ones(SIDE)
    return np.concatenate([square, square.swapaxes(1, 2)]).reshape(TOPICS, -1) / SIDE


rng = np.random.default_rng(0)
shares = rng.dirichlet(np.full(TOPICS, 0.15), size=400)
words = np.array([rng.choice(VOCABULARY, LENGTH, p=p) for p in shares @ bars()])
words = jnp.asarray(words)

# %% [markdown]
# ## The model
#
# `topic` is an integer, and `table[topic]` is the usual way to use it. The shares of
# the topics in a document are the softmax of normal scores, as in a [correlated topic
# model](https://doi.org/10.1214/07-AOAS114). The table is a parameter, and the plate
# of documents takes a minibatch.

# %%
BATCH = 50


def model(words, infer=None):
    """Words, each from the topic that it has."""
    start = lambda key: random.normal(key, (TOPICS, VOCABULARY))  # noqa: E731
    table = jax.nn.softmax(numpyro.param("table", start))
    with numpyro.plate("documents", len(words), BATCH, dim=-2) as rows:
        prior = dist.Normal(jnp.zeros((1, TOPICS)), 2.0).to_event(1)
        scores = numpyro.sample("scores", prior)
        with numpyro.plate("words", LENGTH, dim=-1):
            topics = dist.Categorical(logits=scores)
            topic = numpyro.sample("topic", topics, infer=infer)
            word = dist.Categorical(table[topic])
            numpyro.sample("word", word, obs=words[rows])


# %% [markdown]
# ## The guide
#
# The scores of a document are a linear function of its word counts, and the topic of a
# word depends on these scores and on the word. No parameter belongs to a single
# document.

# %%


def sample_scores(documents):
    """The scores of the topics in each document of a minibatch."""
    by_word = numpyro.param("by_word", jnp.zeros((VOCABULARY, TOPICS)))
    scale = jax.nn.softplus(numpyro.param("scale", jnp.zeros(TOPICS)))
    loc = by_word[documents].sum(1, keepdims=True)
    return numpyro.sample("scores", dist.Normal(loc, scale).to_event(1))


def guide_of_scores(words):
    """The scores of the topics in each document."""
    with numpyro.plate("documents", len(words), BATCH, dim=-2) as rows:
        sample_scores(words[rows])


def guide(words):
    """The scores of the topics in each document, and the topic of each word."""
    evidence = numpyro.param("evidence", jnp.zeros((VOCABULARY, TOPICS)))
    with numpyro.plate("documents", len(words), BATCH, dim=-2) as rows:
        scores = sample_scores(words[rows])
        with numpyro.plate("words", LENGTH, dim=-1):
            topics = dist.Categorical(logits=scores + evidence[words[rows]])
            numpyro.sample("topic", topics)


# %% [markdown]
# ## Training
#
# `relax` makes both programs differentiable. For comparison, `TraceEnum_ELBO`
# marginalizes out the topics, and needs a guide of the scores alone. The enumerated
# pair also goes through `relax`, which leaves the site marked for enumeration as it is,
# but makes the model and the guide use the same minibatch. NumPyro's `TraceEnum_ELBO`
# alone does not do this.

# %%


def train(model, guide, elbo):
    """Train on minibatches, and return the parameters."""
    svi = SVI(model, guide, optax.adam(0.02), elbo)
    return svi.run(random.key(0), STEPS, words, progress_bar=False).params


def enumerated(words):
    """The model, with topics that the ELBO enumerates."""
    model(words, infer={"enumerate": "parallel"})


enumerated_pair = relax(enumerated), relax(guide_of_scores)
enumerating_elbo = TraceEnum_ELBO(max_plate_nesting=2)
found = {
    "relaxed": train(relax(model), relax(guide), Trace_ELBO()),
    "enumerated": train(*enumerated_pair, enumerating_elbo),
}

# %% [markdown]
# ## The result
#
# The output shows the discrete ELBO per word, in nats: first with the topics
# marginalized out, which measures how good a table is, and then with the topics sampled
# from the relaxed guide. The distance is between a learned topic and the topic that
# generated the data: the share of its probability that is on the wrong words.

# %%


def nats(elbo, model, guide, params):
    """An ELBO of a word, over minibatches."""
    loss = jax.jit(lambda key: elbo.loss(key, params, model, guide, words))
    losses = [loss(key) for key in random.split(random.key(1), 100)]
    return -np.mean(losses) / words.size


def aligned(params):
    """The topics in the order of those that made the data."""
    table = np.asarray(jax.nn.softmax(params["table"]))
    distances = np.abs(bars()[:, None] - table).sum(-1) / 2
    _, order = linear_sum_assignment(distances)
    return table[order]


tables = {"the data": bars()}
for name, params in found.items():
    tables[name] = aligned(params)
    distance = np.abs(tables[name] - bars()).sum(-1).mean() / 2
    worth = nats(enumerating_elbo, *enumerated_pair, params)
    print(f"{name:10}  marginalized {worth:.3f}  distance {distance:.2f}")
sampled = nats(Trace_ELBO(), model, harden(relax(guide)), found["relaxed"])
print(f"relaxed     sampled      {sampled:.3f}")

# %%
figure, grid = plt.subplots(len(tables), TOPICS, figsize=(8, 3.4), layout="constrained")
for axes, (name, table) in zip(grid, tables.items(), strict=True):
    for ax, topic in zip(axes, table, strict=True):
        ax.imshow(topic.reshape(SIDE, SIDE), cmap="Blues", vmin=0, vmax=1 / SIDE)
        ax.set(xticks=[], yticks=[])
    axes[0].set_ylabel(name)
figure.suptitle("Word probabilities of the topics")
page.show(figure, "lda_numpyro")

# %% [markdown]
# Relaxed training finds the topics as well as enumeration does. Prefer enumeration
# where it is possible. Relax where it is not: if the topic of a word depends on those
# of many other words, say, or if a network takes the topics of all words as its input.
