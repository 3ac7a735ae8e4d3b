"""Exact KL divergences of two Concretes, at equal and at unequal temperatures.

Write a, b for the logits of p and q, r = t_q / t_p and v_k = b_k - r a_k. A sample of p
is made of noise E_k = exp(-G_k), which are unit exponentials, and both log-densities of
the sample are functions of the noise (arXiv:1611.00712, app. C.3). Their mean is

    KL = -(n-1) log r + n g (r-1) - n digamma(n) - sum_k v_k
         + n E log sum_k e^(v_k) E_k^r,

with Euler's constant g. It is convex in (v, r), and depends on v by differences alone.
So it is the sum of two parts that are never negative: the *floor*, which is the KL at
v = 0 and a function of r, and the *excess* over it, which v adds. Each is computed
without cancellation, so the KL has a small relative error even where p is close to q.

`temperatures` has the ratio r and the floor; `binary` and `categorical` have the excess
for two and for n classes, in closed form at equal temperatures and two classes and as
an integral over one variable otherwise. ``docs/kl.md`` derives the formulas.

Counterpart: ``pyro_concrete.ops.kl``.
"""

from numpyro_concrete.ops.kl.binary import logit_binary_concrete_kl
from numpyro_concrete.ops.kl.categorical import exp_concrete_kl

__all__ = ["exp_concrete_kl", "logit_binary_concrete_kl"]
