"""How a relaxed site passes gradients: what the program sees, and what scores it.

Give one to ``relax(fn, temperature, estimator=...)``, for all sites or by site.

========================  ==================  ======================  =================
estimator                 the program sees    scored by               gradient
========================  ==================  ======================  =================
`Relaxed`                 the soft point      Concrete densities      exact, of the
                                              (or discrete mass)      relaxed objective
`StraightThrough`         its hard vertex     Concrete densities      biased
                                              (or discrete mass)
`GumbelRao`               a hard draw         discrete mass           biased, as the
                                                                      last; less noise
`ReinMax`, `ZGR`          a hard draw         discrete mass           biased; exact for
                                                                      quadratics
========================  ==================  ======================  =================

With discrete mass and hard values the value of an ELBO is an unbiased estimate of the
discrete ELBO; only its gradient is biased.

Counterpart: ``pyro_concrete.estimators``.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.nn import sigmoid
from jax.typing import ArrayLike

from numpyro_concrete import ops
from numpyro_concrete.distributions import (
    ExpConcrete,
    ExpConcreteMass,
    HardBinary,
    HardOneHot,
    LogitBinaryConcrete,
    LogitBinaryConcreteMass,
)

Families = tuple[Callable, Callable]

# What scores a soft point of n values, and one of two.
_SOFT: dict[str, Families] = {
    "concrete": (ExpConcrete, LogitBinaryConcrete),
    "discrete": (ExpConcreteMass, LogitBinaryConcreteMass),
}
_HARD: Families = (HardOneHot, HardBinary)


@dataclass(frozen=True)
class AbstractEstimator:
    """What the program sees of a relaxed site, and how gradients come back."""

    scorings: ClassVar[tuple[str, ...]]  # the first is the default
    num_noises: ClassVar[int] = 1  # draws of noise of a hard value

    def shown(self, simplex: Array) -> Array:
        """Return what the program sees of weights on the simplex."""
        return simplex


@dataclass(frozen=True)
class Relaxed(AbstractEstimator):
    """The soft point itself: the relaxed program, with its exact gradient.

    The default. Scored by Concrete densities, the ELBO is a bound on the evidence of
    the relaxed model.

    Example:
        >>> Relaxed().scorings
        ('concrete', 'discrete')

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.Relaxed`.
    """

    scorings: ClassVar = ("concrete", "discrete")


@dataclass(frozen=True)
class StraightThrough(AbstractEstimator):
    """The vertex nearest to the soft point, with the gradient of the soft point.

    The program sees what it will see in the discrete model, at the price of a biased
    gradient: its mean is exact for linear functions at temperature 1 alone. Colder
    temperatures do not remove the bias, and raise the variance.

    Example:
        >>> soft = jnp.array([0.2, 0.5, 0.3])
        >>> StraightThrough().shown(soft).tolist()
        [0.0, 1.0, 0.0]

    References:
        Bengio, Léonard, Courville (2013), Estimating or Propagating Gradients Through
        Stochastic Neurons. https://arxiv.org/abs/1308.3432
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144

    Counterpart: :class:`pyro_concrete.StraightThrough`.
    """

    scorings: ClassVar = ("concrete", "discrete")

    def shown(self, simplex: Array) -> Array:
        return ops.straight_through(simplex)

    def one_hot(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        """Return a vertex drawn with this noise."""
        point = ops.exp_concrete(noise[0], temperature, logits)
        return ops.straight_through(jnp.exp(point))

    def bit(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        """Return a bit drawn with this noise."""
        point = ops.logit_binary_concrete(noise[0], temperature, logits)
        return ops.straight_through_binary(sigmoid(point))


@dataclass(frozen=True)
class GumbelRao(AbstractEstimator):
    """A hard draw, with the straight-through gradient averaged over its noise.

    The same mean as `StraightThrough` with discrete scoring, and never more variance,
    which allows for lower temperatures, and so for less bias. The program is run once;
    memory for `num_samples` points of each site is needed while the guide runs.

    Args:
        num_samples: Number of soft points to average over, >= 1.

    Raises:
        ValueError: If `num_samples` is not at least 1.

    Example:
        >>> GumbelRao(num_samples=100).scorings
        ('discrete',)

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838

    Counterpart: :class:`pyro_concrete.GumbelRao`.
    """

    num_samples: int = 10

    scorings: ClassVar = ("discrete",)

    def __post_init__(self) -> None:
        if not self.num_samples >= 1:
            raise ValueError(f"GumbelRao averages over >= 1 points, not {self}")

    @property
    def num_noises(self) -> int:
        """Draws of noise: of the draw, and of each point."""
        return 1 + self.num_samples

    def one_hot(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        """Return a vertex drawn with the first noise."""
        return ops.gumbel_rao(noise, temperature, logits)

    def bit(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        """Return a bit drawn with the first noise."""
        return ops.gumbel_rao_binary(noise, temperature, logits)


@dataclass(frozen=True)
class ReinMax(AbstractEstimator):
    """A hard draw, with a second-order gradient: exact for quadratic functions.

    Exact at temperature 1; a higher one trades that for less variance. The temperature
    only shapes the gradient, and has none of its own: do not learn it.

    Example:
        >>> ReinMax().scorings
        ('discrete',)

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612

    Counterpart: :class:`pyro_concrete.ReinMax`.
    """

    scorings: ClassVar = ("discrete",)

    def one_hot(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        """Return a vertex drawn with this noise."""
        return ops.reinmax(noise[0], temperature, logits)

    def bit(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        """Return a bit drawn with this noise."""
        return ops.reinmax_binary(noise[0], temperature, logits)


@dataclass(frozen=True)
class ZGR(ReinMax):
    """A hard draw, with the gradient of `GumbelRao` in the limit of temperature zero.

    That limit is the mean of a straight-through and a score-function gradient, and the
    same as `ReinMax` at temperature 1, to which it leads from the other side. It has
    no temperature: that of `relax` is ignored.

    Example:
        >>> ZGR().scorings
        ('discrete',)

    References:
        Shekhovtsov (2023), Cold Analysis of Rao-Blackwellized Straight-Through
        Gumbel-Softmax Gradient Estimator, ICML (PMLR 202).

    Counterpart: :class:`pyro_concrete.ZGR`.
    """

    def one_hot(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        return ops.reinmax(noise[0], 1.0, logits)

    def bit(self, noise: Array, temperature: ArrayLike, logits: Array) -> Array:
        return ops.reinmax_binary(noise[0], 1.0, logits)


Estimator = AbstractEstimator | Mapping[str, AbstractEstimator]


def check_estimator(
    estimator: Any, scoring: str | None, name: str | None = None
) -> None:
    """Raise an error if an estimator is none, or does not go with the scoring.

    Args:
        estimator: What was given to `relax`, or at a site.
        scoring: What was given to `relax`, or None.
        name: Name of the site, if it is one's own.

    Raises:
        TypeError: If it is no estimator.
        ValueError: If the scoring is unknown, or needs a density of hard values.

    Example:
        >>> check_estimator(ReinMax(), "concrete")
        Traceback (most recent call last):
        ValueError: ReinMax() draws hard values, which have a mass and no density: ...
    """
    if isinstance(estimator, Mapping):
        for name, own in estimator.items():
            check_estimator(own, scoring, name)
        return
    at = "" if name is None else f"site {name!r}: "
    if not isinstance(estimator, AbstractEstimator):
        raise TypeError(
            f"{at}an estimator is an instance such as Relaxed(), StraightThrough() or "
            f"GumbelRao(10), and not {estimator!r}"
        )
    if scoring not in (None, *_SOFT):
        raise ValueError(f"scoring is one of {[*_SOFT]}, not {scoring!r}")
    if scoring is not None and scoring not in estimator.scorings:
        raise ValueError(
            f"{at}{estimator} draws hard values, which have a mass and no density: "
            "leave out scoring=..., or set it to 'discrete'"
        )


def families(estimator: AbstractEstimator, scoring: str | None) -> Families:
    """Return what samples and scores a site of n values, and one of two.

    Args:
        estimator: Estimator of the site.
        scoring: "concrete", "discrete", or None for the estimator's own.

    Example:
        >>> families(Relaxed(), "concrete") == (ExpConcrete, LogitBinaryConcrete)
        True
    """
    scoring = scoring or estimator.scorings[0]
    if scoring == "concrete" or isinstance(estimator, Relaxed):
        return _SOFT[scoring]
    one_hot, bit = (functools.partial(x, estimator=estimator) for x in _HARD)
    return one_hot, bit
