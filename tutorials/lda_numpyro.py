# %% [markdown]
# # Topics of documents (LDA) with an amortized guide, in NumPyro
#
# In latent Dirichlet allocation (Blei, Ng and Jordan, JMLR 2003), each word of a
# document draws a topic, an integer, and the word is drawn from a table of words at that
# index. This example relaxes the topics of all words, with a guide that a small network
# computes from a document, and minibatches of documents. It checks the result against
# enumeration, which is possible here because each word can be summed out by itself.
#
# The example is in one file and makes its own data. Run it as
# `python tutorials/lda_numpyro.py`, with `--short` for a few steps. The Pyro version is
# `lda_pyro.py`.

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
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO

from numpyro_concrete import harden, relax

STEPS = 20 if page.options().short else 3000

# %% [markdown]
# ## Documents with topics that can be seen
#
# The words are the 25 cells of a square, and a topic is a row or a column of it, as in
# Griffiths and Steyvers (PNAS 2004). A document has 40 words, mostly of two or three
# topics.

# %%
SIDE, TOPICS, WORDS = 5, 10, 40


def bars():
    """Probabilities of the words in each topic: (topics, words of the vocabulary)."""
    rows = np.eye(SIDE)[:, :, None] * np.ones(SIDE)
    columns = np.eye(SIDE)[:, None, :] * np.ones(SIDE)[:, None]
    return np.concatenate([rows, columns]).reshape(TOPICS, -1) / SIDE


rng = np.random.default_rng(0)
shares = rng.dirichlet(np.full(TOPICS, 0.2), size=500)
words = np.array([rng.choice(SIDE**2, WORDS, p=p) for p in shares @ bars()])
counts = jnp.asarray((words[..., None] == np.arange(SIDE**2)).sum(1))
words = jnp.asarray(words)

# %% [markdown]
# ## The model
#
# This is LDA as it is usually written: `topic` is an integer that selects a row of the
# table. The table is a parameter. The plate of documents draws a minibatch of them.

# %%
VOCABULARY, BATCH = SIDE**2, 64


def model(words, counts):
    """Words from the topics that they draw."""
    start = lambda key: random.normal(key, (TOPICS, VOCABULARY))  # noqa: E731
    table = jax.nn.softmax(numpyro.param("table", start))
    with numpyro.plate("documents", len(words), BATCH, dim=-2) as batch:
        prior = dist.Dirichlet(jnp.full((1, TOPICS), 0.2))
        shares = numpyro.sample("shares", prior)
        with numpyro.plate("words", WORDS, dim=-1):
            topic = numpyro.sample("topic", dist.Categorical(shares))
            word = dist.Categorical(table[topic])
            numpyro.sample("word", word, obs=words[batch])


# %% [markdown]
# ## The guide
#
# A layer of hidden units computes the shares of a document's topics from its counts of
# words. A word's topic depends on these shares and on the word, through a table of
# scores. Nothing belongs to a single document, so that the guide also serves new ones.

# %%
HIDDEN = 50


def dense(name, x, size):
    """An affine layer."""
    shape = x.shape[-1], size
    start = lambda key: random.normal(key, shape) / shape[0] ** 0.5  # noqa: E731
    weight = numpyro.param(f"{name}_weight", start)
    return x @ weight + numpyro.param(f"{name}_bias", jnp.zeros(size))


def guide_of_shares(words, counts):
    """The shares of each document's topics."""
    with numpyro.plate("documents", len(words), BATCH, dim=-2) as batch:
        hidden = jax.nn.softplus(dense("hidden", counts[batch][:, None] / 10, HIDDEN))
        rates = jax.nn.softplus(dense("rates", hidden, TOPICS)) + 0.05
        return numpyro.sample("shares", dist.Dirichlet(rates)), batch


def guide(words, counts):
    """The shares of each document's topics, and the topic of each word."""
    shares, batch = guide_of_shares(words, counts)
    scores = numpyro.param("scores", jnp.zeros((VOCABULARY, TOPICS)))
    with numpyro.plate("documents", len(words), BATCH, dim=-2):
        pass
    logits = jnp.log(shares) + scores[words[batch]]
    with numpyro.plate("words", WORDS, dim=-1):
        numpyro.sample("topic", dist.Categorical(logits=logits))
