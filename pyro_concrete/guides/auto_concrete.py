"""AutoConcrete: a guide for relaxed models.

The guide samples a factor for each latent site, inside of the model if that masks any
(`masks.py`). Its constructor is that of `AbstractFactorGuide` (`abstract.py`), an
`AutoNormal`, which has the locations and scales of continuous sites. `posterior.py`
reads probabilities and quantiles of the discrete model off the parameters.

Counterpart: ``numpyro_concrete.guides.auto_concrete``.
"""

from collections.abc import Sequence

import pyro
import torch
from pyro import poutine
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from concrete_core.guides import (
    Argument,
    Call,
)
from pyro_concrete.guides.abstract import AbstractFactorGuide
from pyro_concrete.guides.factors import (
    FactorMessenger,
)
from pyro_concrete.guides.masks import is_masked
from pyro_concrete.guides.posterior import class_probabilities, discrete_quantiles
from pyro_concrete.internals import active_handlers
from pyro_concrete.relaxation.handlers import (
    HardenMessenger,
    TrainingMessenger,
    hardened_in_prediction,
)
from pyro_concrete.relaxation.surroundings import GradientMessenger
from pyro_concrete.relaxation.wrappers import element_mask


class AutoConcrete(AbstractFactorGuide):
    r"""A guide for a relaxed model: a Concrete factor for each relaxed site.

    The factors are independent. A relaxed site has logits of its own, in the family of
    the model's site (`ExpConcrete`, `LogitBinaryConcrete`). Continuous sites are normal
    in unconstrained space, as in `AutoNormal`. Sites that the model marks for
    enumeration are left to `TraceEnum_ELBO`. `harden` returns the discrete guide.

    Masks of the model apply to the factors as well, at every call: a masked element is
    sampled from the model, as from its prior, and not scored. Under masks the guide
    therefore runs the model once at each call. It looks for masks at its first call, at
    calls with arguments of other types or shapes, and whenever it is hardened, but in
    the steps of an unbiased objective.

    .. math:: q(z_1, \dots, z_m) = \prod_i \mathrm{Concrete}(z_i; a_i, t_i)

    Parameters are ``AutoConcrete.logits.<site>``, if they are learned
    ``AutoConcrete.learned_temperatures.<site>``, and those of `AutoNormal`. In a
    subsampled plate they have its full size.

    Shapes:
        logits: batch shape of the site, and the classes; two-valued sites have one
            logit, log P(z = 1) - log P(z = 0).

    Args:
        model: A relaxed model: the result of `relax`.
        temperature: Temperature of the factors, > 0, a schedule, or a mapping from
            names of sites to these. By default the model's.
        learn_temperatures: Whether each element has a temperature of its own, a
            parameter that starts at `temperature`. A factor can then be as certain as
            its posterior, whatever its logits. Use it with concrete scoring, which
            gives a bound for every temperature; by discrete scoring a high temperature
            seems to be good.
        init_logits: Where logits start. "prior": at the model's logits. "init_loc_fn":
            at the soft sample, in log space, that `init_loc_fn` returns for the site
            ``<site>_relaxed``. A mapping from names of sites to logits: there, and at
            the model's logits for other sites.
        init_loc_fn: Initial value of continuous sites; see Pyro's initialization.
        init_scale: Initial scale of continuous sites, > 0, in unconstrained space.
        create_plates: Function that returns subsampled plates, as in Pyro's guides.

    Raises:
        ValueError: At the first call, if the model has a discrete site that is neither
            relaxed nor enumerated, by name; if `init_logits` does not fit.
        NotImplementedError: If a sequential plate is subsampled.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_concrete import relax
        >>> def model():
        ...     probs = torch.tensor([0.2, 0.3, 0.5])
        ...     z = pyro.sample("z", dist.Categorical(probs))
        ...     pyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=torch.tensor(2.0))
        >>> pyro.clear_param_store()
        >>> guide = AutoConcrete(relax(model, temperature=0.5), temperature=2 / 3)
        >>> list(guide())
        ['z_relaxed']
        >>> guide.probabilities()["z"]
        tensor([0.2000, 0.3000, 0.5000], grad_fn=<SoftmaxBackward0>)

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`numpyro_concrete.AutoConcrete`.
    """

    def forward(self, *args: Argument, **kwargs: Argument) -> dict[str, Tensor]:
        """Sample every latent site of the relaxed model, by name."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        call = Call(args, kwargs)
        if self._may_be_masked(call):
            return self._sample_in_model(call)
        # Continuous sites, relaxed sites, then discrete sites with one value.
        values = super().forward(*args, **kwargs)
        hardening = hardened_in_prediction()
        for relaxed_name, site in self._relaxed_sites.items():
            with hardening, self._enter_plates(site.plates):
                fn = self._concrete_factor(site).distribution(site.leaf)
                # Batch dims of the leaf that are event dims of the site.
                fn = fn.to_event(site.num_event_batch_dims)
                values[relaxed_name] = pyro.sample(relaxed_name, fn, infer=site.infer)
        for name, site in self._constant_sites.items():
            with self._enter_plates(site.plates):
                values[name] = pyro.sample(name, site.fn)
        return values

    def _may_be_masked(self, call: Call) -> bool:
        """Whether the model may mask latent sites at this call, or did at another."""
        signature = call.signature(Tensor)
        # The discrete ELBO is to be exact, unless a training loop computes it.
        kinds = {type(handler) for handler in active_handlers()}
        is_evaluated = HardenMessenger in kinds and GradientMessenger not in kinds
        must_search = is_evaluated or signature not in self._searched_signatures
        if must_search and not self._has_masked_sites:
            self._has_masked_sites = self._finds_masks(call)
            self._searched_signatures.add(signature)
        return self._has_masked_sites

    def _finds_masks(self, call: Call) -> bool:
        """Whether a latent site is masked in a run of the discrete model."""
        if self._visible_model is None:
            return False
        state = get_rng_state()
        with poutine.block(), HardenMessenger(), torch.no_grad():
            model = self._visible_model[0]  # the only entry
            trace = call.apply(poutine.trace(model).get_trace)
        set_rng_state(state)  # the search changes no sample of the guide
        for site in self._relaxed_sites.values():
            discrete_site = trace.nodes.get(site.name)
            if discrete_site is None:
                continue
            if element_mask(discrete_site["fn"], discrete_site["mask"]) is not True:
                return True
        return any(
            is_masked(trace.nodes[name])
            for name in self._continuous_sites()
            if name in trace.nodes
        )

    def _sample_in_model(self, call: Call) -> dict[str, Tensor]:
        """Sample the factors where the model has their sites, under its masks."""
        if self._visible_model is None:
            raise RuntimeError(
                "this AutoConcrete was pickled without its model, which it needs since "
                "the model masks latent sites. Create the guide anew from the model, "
                "and load the parameters"
            )
        plates = self._create_plates(*call.args, **call.kwargs)
        messenger = FactorMessenger(self._factors(), self._constant_sites, plates)
        visible_sites = poutine.block(hide_fn=messenger.hides)
        # From the outside in: what a prediction does to the factors; which sites the
        # handlers around get; the model relaxed, as it is even in a prediction; and the
        # factors in the place of its sites.
        with hardened_in_prediction(), visible_sites, TrainingMessenger(), messenger:
            call.apply(self._visible_model[0])
        return messenger.values

    # --- the discrete posterior

    def probabilities(self) -> dict[str, Tensor]:
        """Return the probability of each value of each relaxed site, by name.

        Returns:
            Probabilities of the shape of the site and, last, the classes: the values
            of the site in order. Two-valued sites have two.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        return {
            site.name: class_probabilities(site, self._logits_of(site))
            for site in self._relaxed_sites.values()
        }

    def _require_parameters(self) -> None:
        if self.prototype_trace is None:
            raise RuntimeError(
                "AutoConcrete has no parameters before its first call: call the guide "
                "or train it first"
            )

    @torch.no_grad()
    def median(self, *args: Argument, **kwargs: Argument) -> dict[str, Tensor]:
        """Return the posterior median of each latent site of the discrete model.

        The median of a relaxed site is its least value v with P(z <= v) >= 1/2. For
        classes without an order see `probabilities`.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        discrete = self._discrete_quantiles([0.5])
        medians = {name: value[0] for name, value in discrete.items()}
        return super().median(*args, **kwargs) | medians

    @torch.no_grad()
    def quantiles(
        self, quantiles: Sequence[float], *args: Argument, **kwargs: Argument
    ) -> dict[str, Tensor]:
        """Return posterior quantiles of each latent site of the discrete model.

        Args:
            quantiles: Levels, in [0, 1].
            args: Arguments of the model.
            kwargs: Keyword arguments of the model.

        Returns:
            Quantiles of each level along the first axis; of relaxed sites see
            `median`.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        continuous = super().quantiles(quantiles, *args, **kwargs)
        return continuous | self._discrete_quantiles(quantiles)

    def _discrete_quantiles(self, levels: Sequence[float]) -> dict[str, Tensor]:
        return {
            site.name: discrete_quantiles(site, self._logits_of(site), levels)
            for site in self._relaxed_sites.values()
        }
