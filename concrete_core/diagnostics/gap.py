"""The report of `relaxation_gap`: ELBOs and entropies, relaxed and discrete."""

import math
from dataclasses import dataclass

from concrete_core.diagnostics.tables import format_table

_WARNING = """\
Do not compare the first two: the relaxed ELBO is that of another model, the relaxed
one, and where temperatures differ each site keeps a KL above zero. To report are the
discrete ELBO and the multi-sample bound, which are below the evidence on average."""


@dataclass(frozen=True)
class SiteEntropy:
    """How certain a relaxed guide is at one site, and how soft its samples are there.

    Attributes:
        name: Name of the discrete site.
        num_values: Number of its values, >= 2.
        entropy: Entropy of its discrete distribution in the guide, in nats: zero where
            the guide is certain of a value, log(num_values) where it is uniform.
        softness: Entropy of the relaxed samples, taken as probabilities, in nats: zero
            for one-hot ones.

    Example:
        >>> site = SiteEntropy("z", 4, entropy=math.log(2), softness=0.0)
        >>> site.normalized_entropy
        0.5
    """

    name: str
    num_values: int
    entropy: float
    softness: float

    @property
    def normalized_entropy(self) -> float:
        """Entropy over its maximum, log(num_values): from 0 to 1."""
        return self.entropy / math.log(self.num_values)

    @property
    def normalized_softness(self) -> float:
        """Softness over its maximum, log(num_values): from 0 to 1."""
        return self.softness / math.log(self.num_values)


@dataclass(frozen=True)
class RelaxationGap:
    r"""What `relaxation_gap` found; as a string, a table.

    Attributes:
        relaxed_elbo: ELBO of the relaxed model and guide, in nats: what is trained.
        relaxed_stderr: Its standard error.
        discrete_elbo: ELBO of the model and the hardened guide, in nats.
        discrete_stderr: Its standard error.
        bound: Multi-sample bound of the same, of `num_particles`, in nats.
        num_particles: Number of particles behind each number.
        sites: Entropies of the relaxed sites, in the order of the guide.

    Example:
        >>> report = RelaxationGap(-3.0, 0.1, -4.0, 0.1, -3.5, 100, ())
        >>> print(str(report).partition("\n\n")[0])
        objective                        nats  standard error
        relaxed ELBO                  -3.0000          0.1000
        discrete ELBO                 -4.0000          0.1000
        multi-sample bound, m = 100   -3.5000
    """

    relaxed_elbo: float
    relaxed_stderr: float
    discrete_elbo: float
    discrete_stderr: float
    bound: float
    num_particles: int
    sites: tuple[SiteEntropy, ...]

    def __str__(self) -> str:
        objectives = [
            ("objective", "nats", "standard error"),
            ("relaxed ELBO", *_decimals(self.relaxed_elbo, self.relaxed_stderr)),
            ("discrete ELBO", *_decimals(self.discrete_elbo, self.discrete_stderr)),
            (
                f"multi-sample bound, m = {self.num_particles}",
                *_decimals(self.bound),
                "",
            ),
        ]
        sites = [("relaxed site", "values", "entropy", "share", "softness", "share")]
        for site in self.sites:
            numbers = _decimals(
                site.entropy,
                site.normalized_entropy,
                site.softness,
                site.normalized_softness,
            )
            sites.append((site.name, str(site.num_values), *numbers))
        return "\n\n".join([format_table(objectives), _WARNING, format_table(sites)])


def _decimals(*numbers: float) -> list[str]:
    return [f"{number:.4f}" for number in numbers]
