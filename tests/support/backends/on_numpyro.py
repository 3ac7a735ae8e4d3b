"""JAX and NumPyro: see the package."""

import contextlib
import pickle

import numpy as np


class NumPyroBackend:
    """JAX and NumPyro, with numpyro_concrete."""

    name = "numpyro"

    def __init__(self):
        import jax
        import jax.numpy as jnp
        import numpyro

        jax.config.update("jax_enable_x64", True)
        # Validation is on by default only since NumPyro 0.22.
        numpyro.enable_validation()
        import numpyro_concrete
        from numpyro_concrete import distributions, ops, relaxation, soft_index

        self.jax, self.jnp = jax, jnp
        self.xp = jnp
        self.numpyro, self.dist = numpyro, numpyro.distributions
        self.package, self.ops, self.distributions = (
            numpyro_concrete,
            ops,
            distributions,
        )
        self.relaxation, self.soft_index = relaxation, soft_index

    # --- arrays

    def has_device(self, device):
        return bool(self._devices(device))

    def on(self, device):
        return self.jax.default_device(self._devices(device)[0])

    def _devices(self, device):
        with contextlib.suppress(RuntimeError):
            return self.jax.devices({"cpu": "cpu", "cuda": "gpu"}[device])
        return []

    def array(self, x, dtype="float64"):
        return self.jnp.asarray(np.asarray(x), dtype)

    def numpy(self, x):
        x = np.asarray(x)
        return x.astype("float32") if x.dtype == self.jnp.bfloat16 else x

    def bit(self, x):
        """Values of a Bernoulli site, in the type that the host gives to them."""
        return self.array(x, "int64")

    def dtype(self, x):
        return str(x.dtype)

    def grad(self, fn, *args):
        """Gradients of a scalar function of arrays in each of them."""
        return self.jax.grad(fn, argnums=tuple(range(len(args))))(*args)

    def value_and_grad(self, fn):
        """A function that gives a scalar function's value and its gradients."""

        def both(*args):
            argnums = tuple(range(len(args)))
            return self.jax.value_and_grad(fn, argnums=argnums)(*args)

        return self.jax.jit(both)

    def double_precision(self):
        """Let Python's numbers become float64: they do already."""
        return contextlib.nullcontext()

    def exp(self, x):
        return self.jnp.exp(x)

    # --- distributions

    def uniform(self, seed, shape, dtype="float64"):
        generator = np.random.default_rng(seed)
        return self.array(generator.uniform(size=shape), dtype)

    def sample(self, d, seed, shape=()):
        """Draw a value without gradients."""
        return d.sample(self.jax.random.key(seed), shape)

    def sample_own(self, d, seed, shape=()):
        """Draw a value along its path, and its log-density scored from the noise."""
        key = self.jax.random.key(seed)
        value, intermediates = d.sample_with_intermediates(key, shape)
        return value, d.log_prob(value, intermediates)

    def rebuilt(self, value):
        """The same value after an operation that does nothing."""
        return value + 0

    def kl(self, p, q):
        return self.dist.kl_divergence(p, q)

    def biject_to(self, support):
        return self.dist.transforms.biject_to(support)

    def inverse(self, transform, value):
        return transform._inverse(value)

    def in_support(self, d, value):
        return d.support(value)

    # --- programs

    def one_hot(self, logits):
        return self.package.OneHotCategorical(logits=logits)

    def site(self, *args, **kwargs):
        return self.numpyro.sample(*args, **kwargs)

    def plate(self, *args, **kwargs):
        return self.numpyro.plate(*args, **kwargs)

    def markov(self, steps):
        """A loop whose steps depend on the last one."""
        from numpyro.contrib.funsor import markov

        return markov(range(steps))

    def set_at(self, x, index, value):
        """The array with another value at an index."""
        return x.at[index].set(value)

    def vmap(self, fn):
        return self.jax.vmap(fn)

    def param(self, name, value=None, **kwargs):
        """Read a parameter; it starts at the value unless it is set already."""
        return self.numpyro.param(name, value, **kwargs)

    def deterministic(self, name, value):
        return self.numpyro.deterministic(name, value)

    def factor(self, name, value):
        return self.numpyro.factor(name, value)

    def condition(self, fn, data):
        return self.numpyro.handlers.condition(fn, data)

    def block(self, fn, hide):
        return self.numpyro.handlers.block(fn, hide=hide)

    def scope(self, fn, prefix):
        return self.numpyro.handlers.scope(fn, prefix=prefix)

    def replay(self, fn, other, *args, only=None):
        """The program with the values of a run of another at the sites named."""
        seeded = self.numpyro.handlers.seed(other, 0)
        trace = self.numpyro.handlers.trace(seeded).get_trace(*args)
        sites = {k: v for k, v in trace.items() if only is None or k in only}
        return self.numpyro.handlers.replay(fn, trace=sites)

    def mask(self, mask):
        return self.numpyro.handlers.mask(mask=mask)

    def scale(self, scale):
        return self.numpyro.handlers.scale(scale=scale)

    def reparam(self, fn, config):
        return self.numpyro.handlers.reparam(fn, config=config)

    def call(self, fn, *args, seed=0):
        """Run a program with a seed and return its result."""
        return self.numpyro.handlers.seed(fn, seed)(*args)

    def trace(self, fn, *args, seed=0):
        """Run a program: its sites by name, with value, fn, scale, infer."""
        seeded = self.numpyro.handlers.seed(fn, seed)
        trace = self.numpyro.handlers.trace(seeded).get_trace(*args)
        kinds = ("sample", "deterministic")
        return {k: s for k, s in trace.items() if s["type"] in kinds}

    def log_prob(self, fn, *args, values=None, seed=0):
        """Log-densities of the sites of a program whose sites take these values."""
        seeded = self.numpyro.handlers.seed(fn, seed)
        substituted = self.numpyro.handlers.substitute(seeded, values or {})
        trace = self.numpyro.handlers.trace(substituted).get_trace(*args)
        score = self.numpyro.infer.util.compute_log_probs
        probs, _ = score(seeded, args, {}, values or {}, sum_log_prob=True)
        return {k: probs[k] for k in trace if k in probs}

    def inspect(self, fn, *args):
        """The sites of a program by name, for what they are: only shapes are known."""
        sites = {}
        self.jax.eval_shape(lambda: sites.update(self.trace(fn, *args)))
        return sites

    def arguments(self, data):
        """Arrays of NumPy among the arguments of a model as arrays of the host."""
        return [self.jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in data]

    def is_latent(self, site):
        """Whether a traced site is sampled, and neither observed nor a plate."""
        return self.is_scored(site) and not site["is_observed"]

    def is_scored(self, site):
        return site["type"] == "sample"

    def is_discrete_latent(self, site):
        if not self.is_latent(site):
            return False
        support = site["fn"].support
        return support is not None and support.is_discrete

    def is_bit(self, site):
        leaf = self.relaxation.wrappers.leaf_of(site["fn"])
        return isinstance(leaf, self.distributions.LogitBinaryConcrete)

    def log_softmax(self, x):
        return self.jax.nn.log_softmax(x, -1)

    def gradients(self, fn, *args):
        """Gradients as of `grad`; zeros where the function ignores an array."""
        return self.grad(fn, *args)

    def jitted(self, fn):
        """The function, compiled without much thought."""
        options = {"xla_backend_optimization_level": 0}
        return self.jax.jit(fn, compiler_options=options)

    def two_steps(self, kind, model, guide, *args, max_plate_nesting):
        """Losses and parameters of two steps of SVI, compiled as one."""
        nesting = {"max_plate_nesting": max_plate_nesting}
        elbo = self.elbo(kind, **(nesting if kind == "TraceEnum" else {}))
        svi = self.numpyro.infer.SVI(model, guide, self.numpyro.optim.Adam(0.05), elbo)

        def steps(key):
            state = svi.init(key, *args)
            state, first = svi.update(state, *args)
            state, second = svi.update(state, *args)
            return (first, second), svi.get_params(state)

        losses, params = self.jitted(steps)(self.jax.random.key(0))
        return np.array(losses), params

    def elbo(self, kind, particles=1, **kwargs):
        if not isinstance(kind, str):
            return kind
        family = getattr(self.numpyro.infer, f"{kind}_ELBO")
        return family(num_particles=particles, **kwargs)

    def loss(self, kind, model, guide, *args, params=None, particles=1, seed=0):
        """The loss of an ELBO at these parameters, as a number."""
        key, elbo = self.jax.random.key(seed), self.elbo(kind, particles)
        return float(elbo.loss(key, params or {}, model, guide, *args))

    def loss_grad(self, kind, model, guide, *args, params, particles=1, seed=0):
        """Gradients of the loss in the parameters, as NumPy arrays by name."""
        key, elbo = self.jax.random.key(seed), self.elbo(kind, particles)
        grad = self.jax.grad(elbo.loss, argnums=1)(key, params, model, guide, *args)
        return {k: np.asarray(v) for k, v in grad.items()}

    def differentiable_loss(self, kind, model, guide, seed=0):
        """The loss as a scalar in the graph of whatever the programs close over."""
        return self.elbo(kind).loss(self.jax.random.key(seed), {}, model, guide)

    # --- AutoConcrete

    def leaf_of(self, fn):
        return self.relaxation.wrappers.leaf_of(fn)

    def init_to_median(self, site):
        return self.numpyro.infer.init_to_median(site)

    def auto_normal(self, model):
        return self.numpyro.infer.autoguide.AutoNormal(model)

    def guide_list(self, model, *parts):
        guides = self.numpyro.infer.autoguide.AutoGuideList(model)
        for part in parts:
            guides.append(part)
        return guides

    def initial_params(self, guide, *args):
        """Set a guide up, and return its parameters."""
        seeded = self.numpyro.handlers.seed(guide, 0)
        trace = self.numpyro.handlers.trace(seeded).get_trace(*args)
        return {k: s["value"] for k, s in trace.items() if s["type"] == "param"}

    def probabilities(self, guide, params):
        return {k: np.asarray(v) for k, v in guide.probabilities(params).items()}

    def median(self, guide, params, *args):
        return {k: np.asarray(v) for k, v in guide.median(params).items()}

    def quantiles(self, guide, params, levels, *args):
        found = guide.quantiles(params, levels)
        return {k: np.asarray(v) for k, v in found.items()}

    def draws_of(self, fn, params, *args, name, draws):
        """Many draws of one site."""

        def draw(key):
            seeded = self.numpyro.handlers.seed(self.with_params(fn, params), key)
            return self.numpyro.handlers.trace(seeded).get_trace(*args)[name]["value"]

        keys = self.jax.random.split(self.jax.random.key(5), draws)
        return np.asarray(self.jitted(self.jax.vmap(draw))(keys))

    def loss_grad_and_draws(self, kind, model, guide, *args, params, **kwargs):
        """The loss, its gradients, and the values that the guide has drawn."""
        elbo = self.elbo(kind, **kwargs)

        def loss(params, key):
            drawn = {}

            def recording(*args):
                drawn.update(guide(*args))

            return elbo.loss(key, params, model, recording, *args), drawn

        grad = self.jax.value_and_grad(loss, has_aux=True)
        (value, drawn), grads = grad(params, self.jax.random.key(3))
        arrays = ({k: np.asarray(v) for k, v in x.items()} for x in (grads, drawn))
        return (float(value), *arrays)

    def sampled_gradients(self, kind, model, guide, *args, params, draws, **kwargs):
        """Gradients of the loss in each parameter, for each of many draws."""
        elbo = self.elbo(kind, **kwargs)

        def grad(key):
            loss = lambda params: elbo.loss(key, params, model, guide, *args)  # noqa: E731
            return self.jax.grad(loss)(params)

        keys = self.jax.random.split(self.jax.random.key(4), draws)
        found = self.jax.jit(self.jax.vmap(grad))(keys)
        return {k: np.asarray(v) for k, v in found.items()}

    def objective(self, name, particles, plates):
        """An ELBO of ours or of the host, of many particles at once."""
        ours = getattr(self.package, name, None)
        family = ours or getattr(self.numpyro.infer, f"{name}_ELBO")
        return family(num_particles=particles)

    def gradient_sampler(self, objective, model, guide, params):
        """A function from a number of batches and a seed to gradients of the ELBO.

        Each gradient is the mean of as many draws as the objective has particles. They
        are arrays by name of the parameter, batches first.
        """
        values = {name: self.array(value) for name, value in params.items()}

        def gradient(key):
            loss = lambda params: objective.loss(key, params, model, guide)  # noqa: E731
            return self.jax.grad(loss)(values)

        gradient = self.jax.jit(gradient)

        def sample(batches, seed):
            keys = self.jax.random.split(self.jax.random.key(seed), batches)
            found = [self.jax.device_get(gradient(key)) for key in keys]
            return {k: -np.array([x[k] for x in found]) for k in params}

        return sample

    def infer_discrete(self, model, guide, *args, params):
        """The most probable values of enumerated sites; relaxed ones are drawn."""
        hard = self.numpyro.handlers.substitute(self.package.harden(guide), params)
        seeded = self.numpyro.handlers.seed(hard, 0)
        drawn = self.numpyro.handlers.trace(seeded).get_trace(*args)
        sites = {k: s["value"][None] for k, s in drawn.items() if s["type"] == "sample"}
        predictive = self.numpyro.infer.Predictive(
            model, sites, num_samples=1, infer_discrete=True, batch_ndims=1
        )
        found = predictive(self.jax.random.key(0), *args)
        return {k: np.asarray(v)[0] for k, v in found.items()}

    # --- training

    def with_params(self, fn, params):
        """The program with these values of its parameters."""
        return self.numpyro.handlers.substitute(fn, params)

    def optimiser(self, lr, counted):
        optimiser = self.numpyro.optim.Adam(lr)
        return self.package.schedules.count_steps(optimiser) if counted else optimiser

    def train_in_parts(self, model, guide, *args, parts, lr=0.05):
        """Train, saved to disk and restored between the parts: the parameters."""
        saved = None
        for steps in parts:
            optimiser = self.optimiser(lr, counted=True)
            svi = self.numpyro.infer.SVI(model, guide, optimiser, self.elbo("Trace"))
            # Whoever resumes calls init, too: it tells SVI of the constraints.
            state = svi.init(self.jax.random.PRNGKey(0), *args)
            if saved is not None:
                leaves = self.jax.tree.leaves(state)
                restored = [self.jnp.asarray(x) for x in pickle.loads(saved)]
                assert len(restored) == len(leaves)
                state = self.jax.tree.unflatten(
                    self.jax.tree.structure(state), restored
                )
            run = {"progress_bar": False, "init_state": state}
            result = svi.run(self.jax.random.PRNGKey(9), steps, *args, **run)
            leaves = self.jax.tree.leaves(result.state)
            saved = pickle.dumps([np.asarray(x) for x in leaves])
        return {name: np.asarray(x) for name, x in result.params.items()}

    def train_compiled(self, model, guide, *args, runs, steps):
        """Train by a jitted update: parameters, and the runs that tracing took."""
        optimiser = self.optimiser(0.01, counted=True)
        svi = self.numpyro.infer.SVI(model, guide, optimiser, self.elbo("Trace"))
        state = svi.init(self.jax.random.key(0), *args)
        update = self.jax.jit(lambda state: svi.update(state, *args)[0])
        state = update(state)
        before = len(runs)
        for _ in range(20):
            state = update(state)
        assert len(runs) == before
        result = svi.run(
            self.jax.random.key(1), steps, *args, progress_bar=False, init_state=state
        )
        # The whole run of scan is traced, twice at most, and not once for each step.
        assert len(runs) <= before + 2
        return result.params, len(runs)

    def train(
        self,
        kind,
        model,
        guide,
        *args,
        steps=20,
        lr=0.05,
        seed=0,
        counted=False,
        **kwargs,
    ):
        """Train by SVI from a fresh state and return the losses and parameters."""
        optimiser = self.optimiser(lr, counted)
        elbo = self.elbo(kind, **kwargs)
        svi = self.numpyro.infer.SVI(model, guide, optimiser, elbo)
        key = self.jax.random.key(seed)
        result = svi.run(key, steps, *args, progress_bar=False)
        return np.asarray(result.losses), result.params

    def predict(self, model, posterior_samples, *args, **kwargs):
        """Predictions at samples of a posterior."""
        family = self.numpyro.infer.Predictive
        predictive = family(model, posterior_samples=posterior_samples, **kwargs)
        return predictive(self.jax.random.key(0), *args)

    def predictive(self, model, guide, *args, params=None, samples=4, **kwargs):
        predictive = self.numpyro.infer.Predictive(
            model, guide=guide, params=params or {}, num_samples=samples, **kwargs
        )
        return predictive(self.jax.random.key(0), *args)

    # --- objectives

    def evaluate(self, fn, *args, params=None, seed=0, **kwargs):
        """Call an objective of ours on programs, with parameters and a seed."""
        return fn(self.jax.random.key(seed), params or {}, *args, **kwargs)

    def renyi_bound(self, model, guide, *args, particles, seed=0):
        """The host's own multi-sample bound, of all particles at once."""
        elbo = self.numpyro.infer.RenyiELBO(0, num_particles=particles)
        return -float(elbo.loss(self.jax.random.key(seed), {}, model, guide, *args))

    def gradient_by_route(self, route, elbo, programs, values, seed=0):
        """Gradients in values that reach the programs as arguments or by a closure.

        Args:
            route: "arguments", "closure", or "module" for a pytree of a class.
            elbo: The objective.
            programs: From a function of the arguments to the values by name, the model
                and the guide.
            values: Arrays by name.
            seed: Seed of the draws.
        """
        key = self.jax.random.key(seed)

        def by_arguments(values):
            return elbo.loss(key, {}, *programs(lambda values: values), values)

        def by_closure(values):
            return elbo.loss(key, {}, *programs(lambda: values))

        values = {k: self.jnp.asarray(v) for k, v in values.items()}
        if route == "module":
            import equinox

            class Module(equinox.Module):
                values: dict

            module = Module(values)
            loss = lambda module: by_closure(module.values)  # noqa: E731
            grads = self.jitted(self.jax.grad(loss))(module).values
        else:
            loss = {"arguments": by_arguments, "closure": by_closure}[route]
            grads = self.jitted(self.jax.grad(loss))(values)
        return {k: np.asarray(v) for k, v in grads.items()}

    def renyi_loss_and_grads(self, model, guide, *, params, particles):
        """The backend's own multi-sample loss, of the draws that IWAE has."""
        elbo = self.numpyro.infer.RenyiELBO(0, num_particles=particles)
        return self.evaluated(elbo, model, guide)(params)

    def evaluated(self, elbo, model, guide, *args):
        """An objective's loss and gradients by name, as a function of parameters."""

        def loss(params, key):
            return elbo.loss(key, params, model, guide, *args)

        both = self.jitted(self.jax.value_and_grad(loss))

        def evaluate(params, seed=0):
            params = {k: self.jnp.asarray(v) for k, v in params.items()}
            value, grads = both(params, self.jax.random.key(seed))
            return float(value), {k: np.asarray(v) for k, v in grads.items()}

        return evaluate

    def largest_array(self, fn):
        """Number of elements of the largest array that a call computes."""
        return self._largest(self.jax.make_jaxpr(fn)().jaxpr)

    def _largest(self, jaxpr):
        sizes = [x.aval.size for eqn in jaxpr.eqns for x in eqn.outvars]
        for eqn in jaxpr.eqns:
            for inner in self.jax.tree.leaves(list(eqn.params.values())):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    sizes.append(self._largest(inner))
        return max(sizes, default=0)

    def number_of_operations(self, elbo, model, guide, params):
        """Number of operations that the loss and its gradients take."""

        def loss(params):
            return elbo.loss(self.jax.random.key(0), params, model, guide)

        gradient = self.jax.make_jaxpr(self.jax.value_and_grad(loss))(params)
        return self._number_of_equations(gradient.jaxpr)

    def _number_of_equations(self, jaxpr):
        number = len(jaxpr.eqns)
        for eqn in jaxpr.eqns:
            for inner in self.jax.tree.leaves(list(eqn.params.values())):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    number += self._number_of_equations(inner)
        return number
