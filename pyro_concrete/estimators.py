"""How a relaxed site passes gradients: what the model receives, and what scores it.

Give one to ``relax(fn, temperature, estimator=...)``, for all sites or by site.

========================  ==================  ======================  =================
estimator                 the model receives  scored by               gradient
========================  ==================  ======================  =================
`Relaxed`                 the soft sample     Concrete densities      exact, of the
                                              (or discrete mass)      relaxed objective
`StraightThrough`         the nearest         Concrete densities      biased
                          one-hot sample      (or discrete mass)
`GumbelRao`               a discrete sample   discrete mass           biased, as the row
                                                                      above; less noise
`ReinMax`, `ZGR`          a discrete sample   discrete mass           biased; exact for
                                                                      quadratics
========================  ==================  ======================  =================

With discrete mass and discrete samples the value of an ELBO is an unbiased estimate of
the discrete ELBO; only its gradient is biased. That of `ReinMax` is exact for quadratic
functions at temperature 1 only; that of `ZGR` does not depend on the temperature.

Counterpart: ``numpyro_concrete.estimators``.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from concrete_core import estimators as core
from concrete_core.estimators import AbstractEstimatorSettings, Families
from pyro_concrete import ops
from pyro_concrete.distributions import (
    ExpConcrete,
    ExpConcreteMass,
    HardBinary,
    HardOneHot,
    LogitBinaryConcrete,
    LogitBinaryConcreteMass,
)
from pyro_concrete.schedules import Default

# What scores a soft sample, by the scoring.
_SOFT_FAMILIES = {
    "concrete": Families(one_hot=ExpConcrete, binary=LogitBinaryConcrete),
    "discrete": Families(one_hot=ExpConcreteMass, binary=LogitBinaryConcreteMass),
}


@dataclass(frozen=True)
class AbstractEstimator(AbstractEstimatorSettings):
    """What the model receives at a relaxed site, and how gradients come back.

    An estimator works in one of two ways, which `select_families` chooses between:

    - With concrete scoring, and for `Relaxed` always, the site has a soft sample, and
      `model_value` turns its probabilities into what the model receives.
    - Otherwise the site is a `HardOneHot` or `HardBinary`, which draws discrete samples
      with `draw_one_hot` or `draw_binary`.

    A subclass lists in `scorings` what may score its sites, the default first.

    Counterpart: :class:`numpyro_concrete.estimators.AbstractEstimator`.
    """

    def model_value(self, simplex: Tensor) -> Tensor:
        """Return what the model receives for the probabilities of a soft sample.

        Shapes:
            simplex: (..., classes), probabilities; the result has the same shape.
        """
        return simplex

    def _binary_model_value(self, prob: Tensor) -> Tensor:
        """The same for the probability of one, at a two-valued site."""
        return prob

    def draw_one_hot(
        self, noise: Tensor, temperature: Tensor, logits: Tensor
    ) -> Tensor:
        """Return a one-hot sample, whose gradient is that of the estimator.

        Shapes:
            noise: (num_noise_draws, *sample, *batch, classes), standard Gumbel noise.
            logits: (*batch, classes).
        """
        raise NotImplementedError

    def draw_binary(self, noise: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
        """Return a sample of 0 or 1, whose gradient is that of the estimator.

        Shapes:
            noise: (num_noise_draws, *sample, *batch), standard logistic noise.
            logits: (*batch,), log-odds.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Relaxed(AbstractEstimator):
    """The soft sample itself: the relaxed model, with its exact gradient.

    The default. Scored by Concrete densities, ``scoring="concrete"``, the ELBO is a
    bound on the evidence of the relaxed model.

    Example:
        >>> Relaxed().scorings
        ('discrete', 'concrete')

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.Relaxed`.
    """

    scorings: ClassVar = ("discrete", "concrete")
    default_temperature: ClassVar = Default(0.2)


@dataclass(frozen=True)
class StraightThrough(AbstractEstimator):
    """The one-hot sample nearest to the soft sample, with the latter's gradient.

    The model receives what it receives in the discrete model, at the price of a biased
    gradient: its mean is exact for linear functions at temperature 1 alone. Colder
    temperatures do not remove the bias, and raise the variance.

    Example:
        >>> soft = torch.tensor([0.2, 0.5, 0.3])
        >>> StraightThrough().model_value(soft)
        tensor([0., 1., 0.])

    References:
        Bengio, Léonard, Courville (2013), Estimating or Propagating Gradients Through
        Stochastic Neurons. https://arxiv.org/abs/1308.3432
        Jang, Gu, Poole (2017), Categorical Reparameterization with Gumbel-Softmax,
        sec. 2.2. https://arxiv.org/abs/1611.01144

    Counterpart: :class:`numpyro_concrete.StraightThrough`.
    """

    scorings: ClassVar = ("discrete", "concrete")
    default_temperature: ClassVar = 2 / 3

    def model_value(self, simplex: Tensor) -> Tensor:
        return ops.straight_through(simplex)

    def _binary_model_value(self, prob: Tensor) -> Tensor:
        return ops.straight_through_binary(prob)

    def draw_one_hot(
        self, noise: Tensor, temperature: Tensor, logits: Tensor
    ) -> Tensor:
        """Return a one-hot sample drawn with the only noise."""
        point = ops.exp_concrete(noise[0], temperature, logits)
        return ops.straight_through(point.exp())

    def draw_binary(self, noise: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
        """Return a sample of 0 or 1 drawn with the only noise."""
        point = ops.logit_binary_concrete(noise[0], temperature, logits)
        return ops.straight_through_binary(point.sigmoid())


@dataclass(frozen=True)
class GumbelRao(AbstractEstimator):
    """A discrete sample, with the straight-through gradient averaged over its noise.

    The gradient has the mean of that of `StraightThrough` with discrete scoring, and
    never more variance, which allows for lower temperatures, and so for less bias. The
    model runs once; the guide needs memory for `num_samples` soft samples of each site.

    Args:
        num_samples: Number of soft samples to average over, >= 1.

    Raises:
        ValueError: If `num_samples` is not at least 1.

    Example:
        >>> GumbelRao(num_samples=100).scorings
        ('discrete',)

    References:
        Paulus, Maddison, Krause (2021), Rao-Blackwellizing the Straight-Through
        Gumbel-Softmax Gradient Estimator, eq. 11. https://arxiv.org/abs/2010.04838

    Counterpart: :class:`numpyro_concrete.GumbelRao`.
    """

    num_samples: int = 10

    scorings: ClassVar = ("discrete",)
    default_temperature: ClassVar = 0.5

    def __post_init__(self) -> None:
        if not self.num_samples >= 1:
            raise ValueError(
                f"num_samples of GumbelRao must be at least 1, not {self.num_samples}"
            )

    @property
    def num_noise_draws(self) -> int:
        """Draws of noise: of the discrete sample, and of each soft sample given it."""
        return 1 + self.num_samples

    def draw_one_hot(
        self, noise: Tensor, temperature: Tensor, logits: Tensor
    ) -> Tensor:
        """Return a one-hot sample drawn with the first noise."""
        return ops.gumbel_rao(noise, temperature, logits)

    def draw_binary(self, noise: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
        """Return a sample of 0 or 1 drawn with the first noise."""
        return ops.gumbel_rao_binary(noise, temperature, logits)


@dataclass(frozen=True)
class ReinMax(AbstractEstimator):
    """A discrete sample, with a second-order gradient: exact for quadratic functions.

    The gradient is Heun's rule. It is exact at temperature 1; a higher one trades that
    for less variance. The temperature shapes the gradients of other parameters and gets
    none itself: do not learn it.

    Example:
        >>> ReinMax().scorings
        ('discrete',)

    References:
        Liu, Dong, Liu, Yu, Gao (2023), Bridging Discrete and Backpropagation:
        Straight-Through and Beyond, alg. 2. https://arxiv.org/abs/2304.08612

    Counterpart: :class:`numpyro_concrete.ReinMax`.
    """

    scorings: ClassVar = ("discrete",)
    default_temperature: ClassVar = 1.0

    def draw_one_hot(
        self, noise: Tensor, temperature: Tensor, logits: Tensor
    ) -> Tensor:
        """Return a one-hot sample drawn with the only noise."""
        return ops.reinmax(noise[0], temperature, logits)

    def draw_binary(self, noise: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
        """Return a sample of 0 or 1 drawn with the only noise."""
        return ops.reinmax_binary(noise[0], temperature, logits)


@dataclass(frozen=True)
class ZGR(ReinMax):
    """A discrete sample, with the gradient of `GumbelRao` at temperature zero.

    That limit is the mean of a straight-through and a score-function gradient, and
    equals the gradient of `ReinMax` at temperature 1. The temperature of `relax` is
    ignored.

    Example:
        >>> ZGR().scorings
        ('discrete',)

    References:
        Shekhovtsov (2023), Cold Analysis of Rao-Blackwellized Straight-Through
        Gumbel-Softmax Gradient Estimator, ICML (PMLR 202).

    Counterpart: :class:`numpyro_concrete.ZGR`.
    """

    def draw_one_hot(
        self, noise: Tensor, temperature: Tensor, logits: Tensor
    ) -> Tensor:
        return ops.reinmax(noise[0], 1.0, logits)

    def draw_binary(self, noise: Tensor, temperature: Tensor, logits: Tensor) -> Tensor:
        return ops.reinmax_binary(noise[0], 1.0, logits)


Estimator = AbstractEstimator | Mapping[str, AbstractEstimator]


def validate_estimator(
    estimator: object, scoring: str | None, name: str | None = None
) -> None:
    """Raise an error unless an estimator is one, and goes with the scoring.

    Args:
        estimator: What `relax` was given: an estimator, or a mapping from names of
            sites to estimators.
        scoring: "concrete", "discrete", or None for the estimator's default.
        name: Name of the site, if the estimator is that of one site.

    Raises:
        TypeError: If it is not an estimator.
        ValueError: If the scoring is unknown, or needs a density of discrete samples.

    Example:
        >>> validate_estimator(ReinMax(), "concrete")
        Traceback (most recent call last):
        ValueError: ReinMax() draws discrete samples, which have a mass and no ...

    Counterpart: :func:`numpyro_concrete.estimators.validate_estimator`.
    """
    core.validate_estimator(estimator, scoring, name, estimator_type=AbstractEstimator)


def select_families(estimator: AbstractEstimator, scoring: str | None) -> Families:
    """Return the distributions that sample and score relaxed sites.

    Args:
        estimator: Estimator of the sites.
        scoring: "concrete", "discrete", or None for the estimator's default.

    Example:
        >>> select_families(Relaxed(), "concrete").binary is LogitBinaryConcrete
        True

    Counterpart: :func:`numpyro_concrete.estimators.select_families`.
    """
    scoring = scoring or estimator.scorings[0]
    # The model receives a soft sample, or what `model_value` makes of it.
    if scoring == "concrete" or isinstance(estimator, Relaxed):
        return _SOFT_FAMILIES[scoring]
    return Families(
        one_hot=functools.partial(HardOneHot, estimator=estimator),
        binary=functools.partial(HardBinary, estimator=estimator),
    )
