"""Exact gradients of small ELBOs, discrete and relaxed, and what estimators give.

A `Program` says how the logits of each site, in guide and model, and the likelihood
depend on the parameters and on the weights of the sites: vertices of the simplex in the
discrete program, points inside of it in a relaxed one. Expectations are sums over all
outcomes and quadrature over the noise; derivatives are taken along a complex step,
Im f(x + ih) / h, which for analytic functions loses no digits. So nothing here takes a
maximum or an absolute value but of real parts, to shift exponentials.

A biased estimator is told by the tangent that it lets through a hard sample: with B the
Jacobian that it puts in place of one, the weights are e_k + B a', where a' is the
tangent of the logits. Given the outcomes, the B of different sites are independent and
the gradient is linear in each, so that their means suffice.

Equation numbers are those of Maddison, Mnih, Teh (2017), arXiv:1611.00712.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .gradients import softmax_jacobian

Arrays = dict[str, NDArray]
Jacobian = Callable[[NDArray, int, float], NDArray]
_TINY = 1e-30  # the complex step


@dataclass(frozen=True)
class Site:
    """A discrete variable; one of two values has two weights, too.

    Attributes:
        name: Key of its weights.
        classes: Number of its values.
        guide: Logits (..., n) from the parameters and the weights of sites before it.
        model: Logits (..., n) from the parameters and the weights of all other sites.
        parents: Sites whose weights `guide` reads.
    """

    name: str
    classes: int
    guide: Callable[[Arrays, Arrays], NDArray]
    model: Callable[[Arrays, Arrays], NDArray]
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A model and a guide with these sites, in the order of the guide.

    Attributes:
        sites: Variables of one element of the batch; elements are independent of each
            other, so that all of them can take their noise from one grid.
        likelihood: Log-likelihood (..., *batch) from the parameters and the weights.
        batch: Shape of the plate that holds everything, if there is one.
    """

    sites: tuple[Site, ...]
    likelihood: Callable[[Arrays, Arrays], NDArray]
    batch: tuple[int, ...] = ()


def gradient(value: Callable[[Arrays], complex], params: Arrays) -> Arrays:
    """Return the derivative of a scalar in each number among the parameters."""
    found = {name: np.zeros(np.shape(x)) for name, x in params.items()}
    for name, slopes in found.items():
        for index in np.ndindex(slopes.shape):
            moved = np.array(params[name], dtype=complex)
            moved[index] += 1j * _TINY
            slopes[index] = np.imag(value({**params, name: moved})) / _TINY
    return found


# --- functions of complex arrays


def logsumexp(x: NDArray) -> NDArray:
    """Return the log-sum-exp over the last axis, which stays."""
    shift = np.real(x).max(-1, keepdims=True)
    return shift + np.log(np.exp(x - shift).sum(-1, keepdims=True))


def log_softmax(x: NDArray) -> NDArray:
    return x - logsumexp(x)


def bit(logit: NDArray) -> NDArray:
    """Return the logits of the values 0 and 1."""
    logit = np.asarray(logit)
    return np.stack([np.zeros_like(logit), logit], -1)


def normal(x: NDArray, loc: NDArray, scale: NDArray) -> NDArray:
    """Return the log-density of a normal variable."""
    return -(((x - loc) / scale) ** 2) / 2 - np.log(scale) - math.log(2 * math.pi) / 2


def bernoulli(x: NDArray, logit: NDArray) -> NDArray:
    """Return the log-probability of a bit."""
    return x * logit - logsumexp(bit(logit))[..., 0]


def log_density(y: NDArray, t: float, logits: NDArray) -> NDArray:
    """Return log kappa, the log-density over log-ratios (App. C.3)."""
    n, terms = y.shape[-1], logits - t * y
    constant = math.lgamma(n) + (n - 1) * math.log(t)
    return constant + terms.sum(-1) - n * logsumexp(terms)[..., 0]


# --- what a site adds to the integrand


def score(
    scoring: str,
    point: NDArray,
    weights: NDArray,
    logits: tuple[NDArray, NDArray],
    temperatures: tuple[float, float],
) -> NDArray:
    """Return the model's score of a site less the guide's.

    Args:
        scoring: "concrete" densities (eq. 20), "discrete" log-masses weighted (eq. 21),
            or their "analytic" mean, less the categorical KL (eq. 22).
        point: The value in log space, shape (..., n).
        weights: The value as the program sees it.
        logits: Those of model and guide.
        temperatures: Those of model and guide.
    """
    (p, q), (t_p, t_q) = logits, temperatures
    if scoring == "concrete":
        return log_density(point, t_p, p) - log_density(point, t_q, q)
    log_q = log_softmax(q)
    shares = {"discrete": weights, "analytic": np.exp(log_q)}[scoring]
    return (shares * (log_softmax(p) - log_q)).sum(-1)


def _terms(
    program: Program,
    params: Arrays,
    points: Arrays,
    weights: Arrays,
    scoring: str,
    temperatures: tuple[float, float],
) -> Iterator[NDArray]:
    """Yield the likelihood and the scores of the sites, as one element's."""
    yield program.likelihood(params, weights)
    for site in program.sites:
        logits = (site.model(params, weights), site.guide(params, weights))
        point = points.get(site.name)
        yield score(scoring, point, weights[site.name], logits, temperatures)


# --- the discrete ELBO


def discrete_elbo(program: Program, params: Arrays) -> complex:
    """Return the discrete ELBO by enumeration of all joint values."""
    total = 0
    for outcome in _outcomes(program):
        weights = _vertices(program, outcome)
        prob, elbo = 1, 0
        for site, k in zip(program.sites, outcome, strict=True):
            prob = prob * np.exp(log_softmax(site.guide(params, weights))[..., k])
        for term in _terms(program, params, {}, weights, "discrete", (1, 1)):
            elbo = elbo + term
        total = total + _summed(prob * elbo, program)
    return total


def discrete_gradient(program: Program, params: Arrays) -> Arrays:
    """Return the gradient of the discrete ELBO."""
    return gradient(lambda moved: discrete_elbo(program, moved), params)


def _outcomes(program: Program) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(site.classes) for site in program.sites))


def _vertices(program: Program, outcome: tuple[int, ...]) -> Arrays:
    """The weights of an outcome, the same for the whole batch."""
    return {
        site.name: np.broadcast_to(
            np.eye(site.classes)[k], (*program.batch, site.classes)
        )
        for site, k in zip(program.sites, outcome, strict=True)
    }


def _summed(x: NDArray, program: Program) -> complex:
    """The sum over the batch, of a term that may be the same for all of it."""
    return np.broadcast_to(x, program.batch).sum()


# --- noise


def log_ratio_density(ratios: NDArray) -> NDArray:
    """Return the density of G_k - G_n, k < n, for independent Gumbels G.

    It is kappa at temperature one and equal logits, at log-ratios (..., n-1).
    """
    n = ratios.shape[-1] + 1
    padded = np.concatenate([-ratios, np.zeros((*ratios.shape[:-1], 1))], -1)
    return math.factorial(n - 1) * np.exp(
        -ratios.sum(-1) - n * logsumexp(padded)[..., 0]
    )


def noise_grid(n: int, step: float, width: float) -> tuple[NDArray, NDArray]:
    """Return Gumbel noise (m, n), up to a common shift, and its weights (m,).

    The trapezoid rule over log-ratios: a point of temperature t has its singularities
    pi t off the real axis, and the error is about exp(-2 pi^2 t / step).
    """
    axis = np.arange(-width, width + step / 2, step)
    ratios = np.array(list(itertools.product(axis, repeat=n - 1)))
    weights = log_ratio_density(ratios) * step ** (n - 1)
    return np.concatenate([ratios, np.zeros((len(ratios), 1))], -1), weights


def noise_given(
    logits: NDArray, k: int, step: float = 0.5, low: float = -30, high: float = 40
) -> tuple[NDArray, NDArray]:
    """Return noise (m, ..., n) for which logits + noise is largest at k, and weights.

    With d_j > 0 the lead of k over class j, d = log(1 + exp(v)), the trapezoid rule is
    over v. The weights (m, ...) sum to the probability of k.
    """
    n = logits.shape[-1]
    axis = np.arange(low, high + step / 2, step)
    v = np.array(list(itertools.product(axis, repeat=n - 1)))
    v = v.reshape(len(v), *[1] * (logits.ndim - 1), n - 1)
    lead = np.logaddexp(0, v)
    others = [j for j in range(n) if j != k]
    ratios = logits[..., [k]] - logits[..., others] - lead
    volume = np.exp((v - lead).sum(-1)) * step ** (n - 1)
    weights = log_ratio_density(ratios) * volume
    return np.insert(ratios, k, 0, -1), weights


# --- relaxed ELBOs


def relaxed_elbo(
    program: Program,
    params: Arrays,
    temperatures: tuple[float, float],
    scoring: str,
    step: float = 0.5,
    width: float = 24.0,
) -> complex:
    """Return the mean of the relaxed objective by quadrature over all noise.

    Args:
        program: Its sites see soft weights of each other, and so does the likelihood.
        params: Arrays by name, one of them perhaps complex.
        temperatures: Those of model and guide.
        scoring: As in `score`.
        step: Spacing of the grid of noise.
        width: Half-width of the grid.
    """
    points, weights, measures = {}, {}, []
    for axis, site in enumerate(program.sites):
        noise, measure = noise_grid(site.classes, step, width)
        shape = _axes(program, axis, len(noise))
        measures.append(measure.reshape(shape + (1,) * len(program.batch)))
        noise = noise.reshape(*shape, *[1] * len(program.batch), site.classes)
        perturbed = site.guide(params, weights) + noise
        points[site.name] = log_softmax(perturbed / temperatures[1])
        weights[site.name] = np.exp(points[site.name])
    terms = _terms(program, params, points, weights, scoring, temperatures)
    return sum(_summed(_averaged(term, measures), program) for term in terms)


def relaxed_gradient(
    program: Program,
    params: Arrays,
    temperatures: tuple[float, float],
    scoring: str,
    **grid: float,
) -> Arrays:
    """Return the gradient of the relaxed objective: see `relaxed_elbo`."""
    return gradient(
        lambda moved: relaxed_elbo(program, moved, temperatures, scoring, **grid),
        params,
    )


def _axes(program: Program, axis: int, size: int) -> tuple[int, ...]:
    """A shape with one axis a site, of which one has this size."""
    return tuple(size if i == axis else 1 for i in range(len(program.sites)))


def _averaged(term: NDArray, measures: list[NDArray]) -> NDArray:
    """The mean over the axes of noise, which lead, each with its own weights."""
    rank = max(x.ndim for x in measures)
    term = np.reshape(term, (1,) * (rank - np.ndim(term)) + np.shape(term))
    for axis, measure in enumerate(measures):
        term = (term * measure).sum(axis, keepdims=True)
    return term.reshape(term.shape[len(measures) :])


# --- estimators with hard samples


def straight_through_jacobian(logits: NDArray, k: int, t: float) -> NDArray:
    """Return E[(diag x - x x^T) / t | D = k], x the soft point; Gumbel-Rao has it, too.

    Args:
        logits: Shape (..., n).
        k: The outcome.
        t: Temperature of the soft point.
    """
    noise, measure = noise_given(logits, k)
    x = np.exp(log_softmax((logits + noise) / t))
    share = measure / measure.sum(0)
    return (share[..., None, None] * softmax_jacobian(x, t)).sum(0)


def reinmax_jacobian(logits: NDArray, k: int, t: float) -> NDArray:
    """Return 2 J((p_t + e_k) / 2) - J(p) / 2, p_t at temperature t (Liu et al., 2023).

    Args:
        logits: Shape (..., n).
        k: The outcome, drawn from softmax(logits) at any t.
        t: Temperature of the midpoint.
    """
    probs, tempered = (np.exp(log_softmax(x)) for x in (logits, logits / t))
    midpoint = (tempered + np.eye(logits.shape[-1])[k]) / 2
    return 2 * softmax_jacobian(midpoint) - softmax_jacobian(probs) / 2


def zgr_jacobian(logits: NDArray, k: int, t: float) -> NDArray:
    """Return half of J(p) + (e_k - p) (e_k - p)^T: straight-through, and DARN.

    Args:
        logits: Shape (..., n).
        k: The outcome.
        t: Nothing depends on it.
    """
    probs = np.exp(log_softmax(logits))
    gap = np.eye(logits.shape[-1])[k] - probs
    return (softmax_jacobian(probs) + gap[..., :, None] * gap[..., None, :]) / 2


def hard_gradient(
    program: Program, params: Arrays, t: float, scoring: str, jacobian: Jacobian
) -> Arrays:
    """Return the mean of an estimator that scores its hard samples by their mass.

    Args:
        program: Its sites see hard samples of each other, and so does the likelihood.
        params: Arrays by name.
        t: Temperature of the estimator.
        scoring: "discrete" or "analytic", as in `score`.
        jacobian: Mean of what the estimator puts in place of dD / dlogits, given D.
    """
    jacobian = _remembered(jacobian)

    def tangent(moved: Arrays) -> complex:
        total = 0
        for outcome in _outcomes(program):
            weights, prob = {}, 1
            for site, k in zip(program.sites, outcome, strict=True):
                logits = site.guide(moved, weights)
                known = np.real(logits)
                slope = jacobian(known, k, t) @ np.imag(logits)[..., None]
                weights[site.name] = np.eye(site.classes)[k] + 1j * slope[..., 0]
                prob = prob * np.exp(log_softmax(known)[..., k])
            terms = _terms(program, moved, {}, weights, scoring, (t, t))
            total = total + sum(_summed(prob * np.imag(x), program) for x in terms)
        return 1j * total

    return gradient(tangent, params)


def _remembered(jacobian: Jacobian) -> Jacobian:
    """The same function; it is asked of the same logits for every parameter."""
    known = {}

    def remembering(logits: NDArray, k: int, t: float) -> NDArray:
        key = (logits.tobytes(), logits.shape, k, t)
        if key not in known:
            known[key] = jacobian(logits, k, t)
        return known[key]

    return remembering


def straight_through_gradient(
    program: Program,
    params: Arrays,
    temperatures: tuple[float, float],
    step: float = 1.25,
) -> Arrays:
    """Return the mean of straight-through with the densities of its soft points.

    The program sees hard samples, the Concrete densities (eq. 20) score the soft points
    behind them. A soft point and what its slope lets through are not independent, and
    so there is a grid of noise for each site on which others depend.

    Args:
        program: Its sites see hard samples of each other, and so does the likelihood.
        params: Arrays by name.
        temperatures: Those of model and guide.
        step: Spacing of the grids.
    """
    grid = {"step": step, "low": -15, "high": 17.5}
    parents = {name for site in program.sites for name in site.parents}

    def tangent(moved: Arrays) -> complex:
        total = 0
        for outcome in _outcomes(program):
            points, weights, measures, prob = {}, {}, [], 1
            for axis, (site, k) in enumerate(zip(program.sites, outcome, strict=True)):
                logits = np.broadcast_to(
                    site.guide(moved, weights),
                    (*_shape(site.guide(moved, weights), program), site.classes),
                )
                # All of one batch element have the same logits, but for the tangents.
                first = (0,) * len(program.sites)
                known = np.real(logits[first])
                noise, measure = noise_given(known, k, **grid)
                shape = _axes(program, axis, len(noise))
                noise = noise.reshape(shape + noise.shape[1:])
                measure = (measure / measure.sum(0)).reshape(shape + known.shape[:-1])
                points[site.name] = log_softmax((logits + noise) / temperatures[1])
                slope = np.imag(np.exp(points[site.name]))
                if site.name not in parents:
                    slope = (slope * measure[..., None]).sum(axis, keepdims=True)
                weights[site.name] = np.eye(site.classes)[k] + 1j * slope
                measures.append(measure)
                prob = prob * np.exp(log_softmax(known)[..., k])
            terms = _terms(program, moved, points, weights, "concrete", temperatures)
            means = (_averaged(np.imag(term), measures) for term in terms)
            total = total + sum(_summed(prob * x, program) for x in means)
        return 1j * total

    return gradient(tangent, params)


def _shape(logits: NDArray, program: Program) -> tuple[int, ...]:
    """The shape of logits without classes, with the axes of noise and of the batch."""
    rank = len(program.sites) + len(program.batch)
    shape = (1,) * (rank + 1 - logits.ndim) + logits.shape
    batch = np.broadcast_shapes(shape[len(program.sites) : -1], program.batch)
    return shape[: len(program.sites)] + batch
