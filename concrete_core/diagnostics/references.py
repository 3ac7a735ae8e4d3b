"""The reference that gradients are compared with, from what a backend can draw."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from concrete_core.diagnostics.moments import Moments
from concrete_core.diagnostics.report import Reference
from concrete_core.types import Elbo, Params

AUTO = "auto"
ENUMERATION = "enumeration"
SCORE = "score"
_CHOICES = [AUTO, ENUMERATION, SCORE]

# Relative and absolute size of differences that are rounding.
_ROUNDING = 1e-5


class AbstractReferenceBuilder(ABC):
    """Builds the reference: by enumeration, by a long run, or as given.

    Args:
        params: Unconstrained parameters by name; only their shapes matter.
        num_draws: Number of draws of a reference that is not exact.

    Attributes:
        elbo_class: Base class of the backend's ELBOs.
    """

    elbo_class: ClassVar[type]

    def __init__(self, params: Params, num_draws: int) -> None:
        self.params = params
        self.num_draws = num_draws

    def build(self, reference: Any) -> Reference:
        """Return the reference that was asked for.

        Args:
            reference: "auto", "enumeration", "score", an unbiased ELBO, or arrays by
                name of the parameter.

        Raises:
            TypeError: If it is none of these.
            ValueError: If the programs cannot be enumerated as asked for, or arrays are
                not those of the parameters.
        """
        if isinstance(reference, Mapping):
            return given_reference(self.params, reference)
        self.validate_programs()
        if isinstance(reference, self.elbo_class):
            return self._by_score(reference)
        if not isinstance(reference, str):
            raise TypeError(
                f"reference is one of {_CHOICES}, an unbiased ELBO such as "
                f"TraceGraph_ELBO(), or a mapping to arrays, and not {reference!r}"
            )
        if reference not in _CHOICES:
            raise ValueError(f"reference is one of {_CHOICES}, and not {reference!r}")
        if reference == SCORE:
            return self._by_score(self.score_elbo())
        obstacle = self.enumeration_obstacle()
        if obstacle is None:
            return self._by_enumeration()
        if reference == ENUMERATION:
            raise ValueError(
                f"the discrete ELBO is not enumerated: {obstacle}. Pass "
                "reference='score' for a long run of an unbiased estimator"
            )
        return self._by_score(self.score_elbo(), obstacle)

    @abstractmethod
    def validate_programs(self) -> None:
        """Raise if gradients of the programs would be wrong in the backend."""

    @abstractmethod
    def enumeration_obstacle(self) -> str | None:
        """Return why the discrete sites of the guide cannot be enumerated, or None."""

    @abstractmethod
    def has_other_randomness(self) -> bool:
        """Tell whether some site is random beside the discrete ones."""

    @abstractmethod
    def score_elbo(self) -> Elbo:
        """Return an ELBO of the backend that is unbiased for the discrete programs."""

    @abstractmethod
    def draw_by_score(self, elbo: Elbo, num_draws: int) -> Moments:
        """Draw gradients of an ELBO of the discrete programs."""

    @abstractmethod
    def draw_by_enumeration(self, num_draws: int) -> Moments:
        """Draw gradients with all discrete sites marginalized out."""

    def _by_enumeration(self) -> Reference:
        if not self.has_other_randomness():
            moments = self.draw_by_enumeration(2)
            # What else is random in the programs shows in two draws that differ.
            if not draws_differ(moments):
                return _exact(moments.mean, "enumeration, which is exact")
        moments = self.draw_by_enumeration(self.num_draws)
        source = f"enumeration of discrete sites, the mean of {self.num_draws} draws"
        return Reference(moments.mean, moments.stderr, source)

    def _by_score(self, elbo: Elbo, obstacle: str | None = None) -> Reference:
        moments = self.draw_by_score(elbo, self.num_draws)
        source = f"the mean of {self.num_draws} draws of {type(elbo).__name__}"
        if obstacle is not None:
            source += f" (no enumeration: {obstacle})"
        return Reference(moments.mean, moments.stderr, source)


def given_reference(params: Params, arrays: Params) -> Reference:
    """Return the reference of arrays that were given, which are taken to be exact.

    Args:
        params: Unconstrained parameters by name; only their shapes matter.
        arrays: Gradients of the ELBO by the name of the parameter.

    Raises:
        ValueError: If names or shapes are not those of the parameters.

    Example:
        >>> given_reference({"a": np.zeros(2)}, {"a": [1.0, 2.0]}).mean["a"].tolist()
        [1.0, 2.0]
    """
    unknown = arrays.keys() - params.keys()
    if unknown:
        raise ValueError(
            "reference names no parameter of the discrete programs: "
            f"{sorted(unknown)}. {_expected_names(params)}"
        )
    missing = params.keys() - arrays.keys()
    if missing:
        raise ValueError(
            f"reference leaves parameters out: {sorted(missing)}. "
            f"{_expected_names(params)}"
        )
    mean = {name: np.asarray(arrays[name], float) for name in params}
    for name, param in params.items():
        if mean[name].shape != tuple(param.shape):
            raise ValueError(
                f"reference[{name!r}] has the shape {mean[name].shape}, and the "
                f"parameter, unconstrained, {tuple(param.shape)}"
            )
    return _exact(mean, "given")


def draws_differ(moments: Moments) -> bool:
    """Tell whether draws differ by more than rounding.

    Args:
        moments: Moments of the draws.
    """
    for name, variance in moments.variance.items():
        largest = np.abs(moments.mean[name]).max()
        rounding = _ROUNDING * (_ROUNDING + largest)
        if (variance > rounding**2).any():
            return True
    return False


def _expected_names(params: Params) -> str:
    return (
        "It has gradients of the ELBO in the unconstrained parameters, "
        f"{sorted(params)}"
    )


def _exact(mean: dict[str, np.ndarray], source: str) -> Reference:
    zeros = {name: np.zeros_like(array) for name, array in mean.items()}
    return Reference(mean, zeros, source)
