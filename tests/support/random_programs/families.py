"""The families of sites in random programs, and what is observed: one line each.

Slots: {p} probabilities of the site's shape, {p3} probabilities of three classes for
every element of that shape, {f} a variable of reals, {t3}[{i}] logits of three classes,
looked up at an integer variable.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A distribution's constructor, and the values of its support in order.

    Attributes:
        source: The constructor.
        values: The support; that of the class, where the values are one-hot.
        numpyro: NumPyro's spelling of the constructor, if it is another.
        is_truncated: Whether relax has to be told where the support ends.
        is_one_hot: Whether the values are one-hot vectors.
    """

    source: str
    values: tuple[int, ...]
    numpyro: str = ""
    is_truncated: bool = False
    is_one_hot: bool = False

    @property
    def is_binary(self):
        return "Bernoulli" in self.source

    def spelled(self, backend):
        return self.numpyro if backend == "numpyro" and self.numpyro else self.source


FAMILIES = [
    Family("dist.Bernoulli({p})", (0, 1)),
    Family("dist.Bernoulli({p})", (0, 1)),
    Family("dist.Bernoulli(logits={f})", (0, 1)),
    Family("dist.Categorical({p1})", (0,)),
    Family("dist.Categorical({p2})", (0, 1)),
    Family("dist.Categorical({p3})", (0, 1, 2)),
    Family("dist.Categorical({p4})", (0, 1, 2, 3)),
    Family("dist.Categorical(logits={t3}[{i}])", (0, 1, 2)),
    Family("dist.Binomial(2, {p})", (0, 1, 2)),
    Family("dist.BetaBinomial(1.5, {p}, 2)", (0, 1, 2)),
    Family("dist.OrderedLogistic({p}, array([-0.5, 1.0]))", (0, 1, 2)),
    Family("dist.OneHotCategorical({p3})", (0, 1, 2), is_one_hot=True),
    Family("dist.Poisson(0.2 * {p})", (0, 1, 2), is_truncated=True),
    Family(
        "dist.Geometric(0.8 + 0.1 * {p})",
        (0, 1, 2),
        numpyro="dist.Geometric(probs=0.8 + 0.1 * {p})",
        is_truncated=True,
    ),
    Family(
        "dist.ZeroInflatedPoisson(0.2 * {p}, gate=array(0.3))",
        (0, 1, 2),
        numpyro="dist.ZeroInflatedPoisson(array(0.3), 0.2 * {p})",
        is_truncated=True,
    ),
]

# A likelihood of a variable {a}, and the number that is observed everywhere.
LIKELIHOODS = [
    ("dist.Normal({a}, 0.7)", 0.4),
    ("dist.Normal({a} * 1.0, 0.7)", 0.4),
    ("dist.Normal(0.3, 1.0 + {a})", 0.4),
    ("dist.Bernoulli(logits={a})", 1),
    ("dist.Poisson(xp.exp({a}))", 2),
    ("dist.Binomial({a}, 0.3)", 0),
    ("dist.Binomial({a} + 2, 0.3)", 1),
]

# Distributions of which a variable is itself observed.
OBSERVING = [
    "dist.Normal(array(0.3), 1.0)",
    "dist.Binomial(12, array(0.4))",
    "dist.Poisson(array(1.5))",
    "dist.Bernoulli(array(0.3))",
]
