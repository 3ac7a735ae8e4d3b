"""AutoConcrete: a guide for relaxed models.

The guide samples a factor for each latent site, inside of the model if that masks any
(`masks.py`). Its constructor is that of `AbstractFactorGuide` (`abstract.py`), an
`AutoNormal`, which has the locations and scales of continuous sites. `posterior.py`
reads probabilities and quantiles of the discrete model off the parameters.

Counterpart: ``pyro_concrete.guides.auto_concrete``.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array, random
from numpyro.handlers import block, seed

from concrete_core.guides import (
    Argument,
    Call,
)
from numpyro_concrete.guides.abstract import AbstractFactorGuide
from numpyro_concrete.guides.factors import (
    FactorMessenger,
)
from numpyro_concrete.guides.masks import is_masked
from numpyro_concrete.guides.posterior import (
    Params,
    Values,
    class_probabilities,
    deterministic_values,
    discrete_quantiles,
)
from numpyro_concrete.guides.sites import (
    ConstantSite,
    RelaxedSite,
)
from numpyro_concrete.internals import active_handlers
from numpyro_concrete.relaxation.handlers import (
    HardenMessenger,
    TrainingMessenger,
    hardened_in_prediction,
)
from numpyro_concrete.relaxation.messages import truncated_mass_name
from numpyro_concrete.relaxation.minibatches import MinibatchMessenger
from numpyro_concrete.relaxation.site import discrete_distribution
from numpyro_concrete.relaxation.wrappers import element_mask

_ARRAY_TYPES = (Array, np.ndarray)


class AutoConcrete(AbstractFactorGuide):
    r"""A guide for a relaxed model: a Concrete factor for each relaxed site.

    The factors are independent. A relaxed site has logits of its own, in the family of
    the model's site (`ExpConcrete`, `LogitBinaryConcrete`). Continuous sites are normal
    in unconstrained space, as in `AutoNormal`. Sites that the model marks for
    enumeration are left to `TraceEnum_ELBO`. `harden` returns the discrete guide.

    Masks of the model apply to the factors as well, at every call: a masked element is
    sampled from the model, as from its prior, and not scored. Under masks the guide
    therefore runs the model once at each call. It looks for masks at its first call,
    at calls with arguments of other types or shapes, and whenever it is hardened.

    .. math:: q(z_1, \dots, z_m) = \prod_i \mathrm{Concrete}(z_i; a_i, t_i)

    Parameters are ``<site>_auto_logits``, if they are learned
    ``<site>_auto_temperature``, and those of `AutoNormal`. In a subsampled plate they
    have its full size.

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
        prefix: Part of the names of parameters.
        init_loc_fn: Initial value of continuous sites; see NumPyro's initialization.
        init_scale: Initial scale of continuous sites, > 0, in unconstrained space.
        create_plates: Function that returns subsampled plates, as in NumPyro's guides.

    Raises:
        ValueError: At the first call, if the model has a discrete site that is neither
            relaxed nor enumerated, by name; if `init_logits` does not fit.

    Example:
        >>> import numpyro.distributions as dist
        >>> from numpyro_concrete import relax
        >>> def model():
        ...     probs = jnp.array([0.25, 0.25, 0.5])
        ...     z = numpyro.sample("z", dist.Categorical(probs))
        ...     numpyro.sample("x", dist.Normal(1.0 * z, 1.0), obs=2.0)
        >>> guide = AutoConcrete(relax(model, temperature=0.5), temperature=2 / 3)
        >>> with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        ...     list(guide())
        ['z_relaxed']
        >>> params = {"z_auto_logits": trace["z_auto_logits"]["value"]}
        >>> guide.probabilities(params)["z"].round(2).tolist()
        [0.25, 0.25, 0.5]

    References:
        Maddison, Mnih, Teh (2017), The Concrete Distribution, eq. 20.
        https://arxiv.org/abs/1611.00712

    Counterpart: :class:`pyro_concrete.AutoConcrete`.
    """

    def __call__(self, *args: Argument, **kwargs: Argument) -> Values:
        """Sample every latent site of the relaxed model, by name."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        with MinibatchMessenger():
            return self._sample(Call(args, kwargs))

    def _sample(self, call: Call) -> Values:
        if self._may_be_masked(call):
            return self._sample_in_model(call)
        # Continuous sites, relaxed sites, then discrete sites with one value.
        values = super().__call__(*call.args, **call.kwargs)
        hardening = hardened_in_prediction()
        for relaxed_name, site in self._relaxed_sites.items():
            with hardening, self._enter_plates(site.plates):
                logits = self._logits_of(relaxed_name)
                factor = self._concrete_factor(site, logits)
                # Batch axes of the leaf that are event axes of the site.
                fn = factor.distribution(site.leaf).to_event(site.num_event_batch_dims)
                values[relaxed_name] = numpyro.sample(
                    relaxed_name, fn, infer=site.infer
                )
        for name, site in self._constant_sites.items():
            with self._enter_plates(site.plates):
                values[name] = numpyro.sample(name, site.fn)
        return values

    def _may_be_masked(self, call: Call) -> bool:
        """Whether the model may mask latent sites at this call, or did at another."""
        signature = call.signature(_ARRAY_TYPES)
        # The discrete ELBO is to be exact, and is not what a training loop computes.
        is_hardened = any(isinstance(x, HardenMessenger) for x in active_handlers())
        must_search = is_hardened or signature not in self._searched_signatures
        if must_search and not self._has_masked_sites:
            self._has_masked_sites = self._finds_masks(call)
            self._searched_signatures.add(signature)
        return self._has_masked_sites

    def _finds_masks(self, call: Call) -> bool:
        """Whether a latent site is masked in a run of the discrete model."""
        # With a key of its own: the search changes no sample of the guide.
        with block(), HardenMessenger():
            model = seed(self._full_model, 0)
            trace = call.apply(numpyro.handlers.trace(model).get_trace)
        # Sites that are observed in training may be latent here, in a prediction.
        for site in self._relaxed_sites.values():
            if site.name not in trace:
                continue
            if element_mask(trace[site.name]["fn"]) is not True:
                return True
        return any(
            is_masked(trace[name]) for name in self._continuous_sites() if name in trace
        )

    def _sample_in_model(self, call: Call) -> Values:
        """Sample the factors where the model has their sites, under its masks."""
        plates = self._create_plates(*call.args, **call.kwargs)
        messenger = FactorMessenger(
            factors=self._factors(),
            constants=self._constant_sites,
            plates=plates,
            scanned=self._scanned_names(),
        )
        model = seed(self._full_model, numpyro.prng_key())
        visible_sites = block(hide_fn=messenger.hides)
        # From the outside in: what a prediction does to the factors; which sites the
        # handlers around get; the model relaxed, as it is even in a prediction; and the
        # factors in the place of its sites.
        with hardened_in_prediction(), visible_sites, TrainingMessenger(), messenger:
            call.apply(model)
        return messenger.values

    # --- the discrete posterior

    def probabilities(self, params: Params) -> Values:
        """Return the probability of each value of each relaxed site, by name.

        Args:
            params: Parameters, as from `SVI.get_params`.

        Returns:
            Probabilities of the shape of the site and, last, the classes: the values
            of the site in order. Two-valued sites have two.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        return {
            site.name: class_probabilities(site, self._logits_from(params, site))
            for site in self._relaxed_sites.values()
        }

    def _require_parameters(self) -> None:
        if self.prototype_trace is None:
            raise RuntimeError(
                "AutoConcrete has no parameters before its first call: call the guide "
                "or train it first"
            )

    def _logits_from(self, params: Params, site: RelaxedSite) -> Array:
        return jnp.asarray(params[self._param_name(site)])

    def median(self, params: Params) -> Values:
        """Return the posterior median of each latent site of the discrete model.

        The median of a relaxed site is its least value v with P(z <= v) >= 1/2. For
        classes without an order see `probabilities`.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        discrete = self._discrete_quantiles([0.5], params)
        medians = {name: value[0] for name, value in discrete.items()}
        if not self._has_continuous_sites:
            return medians
        return super().median(params) | medians

    def quantiles(self, params: Params, quantiles: Sequence[float]) -> Values:
        """Return posterior quantiles of each latent site of the discrete model.

        Args:
            params: Parameters, as from `SVI.get_params`.
            quantiles: Levels, in [0, 1].

        Returns:
            Quantiles of each level along the first axis; of relaxed sites see
            `median`.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        discrete = self._discrete_quantiles(quantiles, params)
        if not self._has_continuous_sites:
            return discrete
        return super().quantiles(params, quantiles) | discrete

    def _discrete_quantiles(self, levels: Sequence[float], params: Params) -> Values:
        return {
            site.name: discrete_quantiles(site, self._logits_from(params, site), levels)
            for site in self._relaxed_sites.values()
        }

    def sample_posterior(
        self,
        rng_key: Array,
        params: Params,
        *args: Argument,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Argument,
    ) -> Values:
        """Sample the sites of the discrete model, of the full size of plates.

        Deterministic sites are among them unless a plate is subsampled.

        Args:
            rng_key: Random key.
            params: Parameters, as from `SVI.get_params`.
            args: Arguments of the model; those of the guide's first call if there are
                none.
            sample_shape: Shape of the samples.
            kwargs: Keyword arguments of the model.

        Raises:
            RuntimeError: If the guide has not been called yet.
        """
        self._require_parameters()
        continuous_key, *keys = random.split(rng_key, 1 + len(self._relaxed_sites))
        samples: Values = {}
        if self._has_continuous_sites:
            samples |= super().sample_posterior(
                continuous_key, params, *args, sample_shape=sample_shape, **kwargs
            )
        latent_values = dict(samples)  # of the relaxed model
        keys_and_sites = zip(keys, self._relaxed_sites.items(), strict=True)
        for key, (relaxed_name, site) in keys_and_sites:
            value = self._sample_discrete(key, site, params, sample_shape)
            samples[site.name] = value
            latent_values[relaxed_name] = site.point_at(value)
        for name, site in self._constant_sites.items():
            shape = (*sample_shape, *self._full_shape(site))
            samples[name] = jnp.broadcast_to(site.value, shape)
        if self._is_subsampled:
            return samples
        # The model has deterministic sites of its own for each relaxed site.
        hidden_names = {site.name for site in self._relaxed_sites.values()}
        hidden_names |= {truncated_mass_name(name) for name in hidden_names}
        call = self._prototype_call
        if args or kwargs:
            call = Call(args, kwargs)
        return samples | deterministic_values(
            self._full_model,
            call,
            params=params,
            latent_values=latent_values,
            hidden_names=hidden_names,
            sample_shape=sample_shape,
        )

    def _sample_discrete(
        self,
        key: Array,
        site: RelaxedSite,
        params: Params,
        sample_shape: tuple[int, ...],
    ) -> Array:
        """Sample the discrete variable that the factor of a site relaxes."""
        factor = self._concrete_factor(site, self._logits_from(params, site))
        fn = factor.distribution(site.leaf).to_event(site.num_event_batch_dims)
        discrete = discrete_distribution(fn, site.record)
        return discrete.sample(key, sample_shape)

    @property
    def _has_continuous_sites(self) -> bool:
        return bool(self._init_locs)

    @property
    def _is_subsampled(self) -> bool:
        sizes = self._prototype_frame_full_sizes
        return any(f.size != sizes[f.name] for f in self._prototype_frames.values())

    def _full_shape(self, site: ConstantSite) -> tuple[int, ...]:
        """The shape of a constant site in plates of their full size."""
        shape = list(site.value.shape)
        for frame in site.plates:
            axis = frame.dim - site.event_dim
            shape[axis] = self._prototype_frame_full_sizes[frame.name]
        return tuple(shape)
