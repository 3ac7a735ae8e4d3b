r"""The mathematics of the Concrete family as pure functions, from noise to values.

Nothing here draws random numbers or knows about NumPyro. Classes lie on the last axis.
All work is done in log (or logit) space, where nothing underflows; half-precision
inputs are computed in float32, because a sum over many classes does not fit float16,
and densities of half-precision values are returned in float32.

Notation (``docs/notation.md``): logits :math:`a_k`, temperature :math:`t`, :math:`n`
classes, Gumbel noise :math:`G_k`, logistic noise :math:`L`.

Counterpart: ``pyro_concrete.ops``.
"""

from concrete_core.kl.tables import MAX_RATIO
from numpyro_concrete.ops.binary import (
    binary_concrete_log_density,
    clamp_probs,
    logit_binary_concrete,
    logit_binary_concrete_entropy,
    logit_binary_concrete_log_density,
    logit_binary_concrete_log_mass,
    logit_binary_concrete_noise_log_density,
)
from numpyro_concrete.ops.categorical import (
    concrete_log_density,
    exp_concrete,
    exp_concrete_entropy,
    exp_concrete_log_density,
    exp_concrete_log_mass,
    exp_concrete_noise_log_density,
    from_log_ratios,
    log_ratios,
)
from numpyro_concrete.ops.hard import (
    conditional_gumbel,
    conditional_logistic,
    gumbel_rao,
    gumbel_rao_binary,
    reinmax,
    reinmax_binary,
    straight_through,
    straight_through_binary,
)
from numpyro_concrete.ops.kl import exp_concrete_kl, logit_binary_concrete_kl
from numpyro_concrete.ops.noise import (
    bernoulli_logits,
    categorical_logits,
    gumbel,
    logistic,
)
from numpyro_concrete.ops.precision import promote_half

__all__ = [
    "MAX_RATIO",
    "bernoulli_logits",
    "binary_concrete_log_density",
    "categorical_logits",
    "clamp_probs",
    "concrete_log_density",
    "conditional_gumbel",
    "conditional_logistic",
    "exp_concrete",
    "exp_concrete_entropy",
    "exp_concrete_kl",
    "exp_concrete_log_density",
    "exp_concrete_log_mass",
    "exp_concrete_noise_log_density",
    "from_log_ratios",
    "gumbel",
    "gumbel_rao",
    "gumbel_rao_binary",
    "log_ratios",
    "logistic",
    "logit_binary_concrete",
    "logit_binary_concrete_entropy",
    "logit_binary_concrete_kl",
    "logit_binary_concrete_log_density",
    "logit_binary_concrete_log_mass",
    "logit_binary_concrete_noise_log_density",
    "promote_half",
    "reinmax",
    "reinmax_binary",
    "straight_through",
    "straight_through_binary",
]
