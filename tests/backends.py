"""The only adaptor between the suite and the two hosts.

A backend makes arrays of its host from NumPy and back, differentiates, draws and scores
samples, and runs small programs. Whatever a test needs of one host alone is in a test
file of that host.
"""

import contextlib
import functools
import warnings

import numpy as np


@functools.cache
def get_backend(name):
    """Return the backend of this name; its host is imported at the first call."""
    return {"pyro": PyroBackend, "numpyro": NumPyroBackend}[name]()


class PyroBackend:
    """PyTorch and Pyro, with pyro_concrete."""

    name = "pyro"

    def __init__(self):
        import pyro
        import torch

        import pyro_concrete
        from pyro_concrete import distributions, ops, relaxation, soft_index

        self.torch, self.pyro, self.dist = torch, pyro, pyro.distributions
        self.xp = torch
        self.package, self.ops, self.distributions = pyro_concrete, ops, distributions
        self.relaxation, self.soft_index = relaxation, soft_index
        self.device = "cpu"

    # --- arrays

    def has_device(self, device):
        return device == "cpu" or self.torch.cuda.is_available()

    @contextlib.contextmanager
    def on(self, device):
        self.device = device
        try:
            yield
        finally:
            self.device = "cpu"

    def array(self, x, dtype="float64"):
        dtype = getattr(self.torch, dtype)
        return self.torch.tensor(np.asarray(x), dtype=dtype, device=self.device)

    def numpy(self, x):
        if not isinstance(x, self.torch.Tensor):
            return np.asarray(x)
        x = self.soft_index.plain(x).detach()
        return (x.float() if x.dtype == self.torch.bfloat16 else x).cpu().numpy()

    def bit(self, x):
        """Values of a Bernoulli site, in the type that the host gives to them."""
        return self.array(x)

    def dtype(self, x):
        return str(x.dtype).removeprefix("torch.")

    def grad(self, fn, *args):
        """Gradients of a scalar function of arrays in each of them."""
        args = [a.detach().requires_grad_() for a in args]
        return self.torch.autograd.grad(fn(*args), args)

    def value_and_grad(self, fn):
        """A function that gives a scalar function's value and its gradients."""

        def both(*args):
            args = [a.detach().requires_grad_() for a in args]
            value = fn(*args)
            return value, self.torch.autograd.grad(value, args)

        return both

    def exp(self, x):
        return x.exp()

    @contextlib.contextmanager
    def double_precision(self):
        """Let Python's numbers become float64, as they do in NumPyro here."""
        default = self.torch.get_default_dtype()
        self.torch.set_default_dtype(self.torch.float64)
        try:
            yield
        finally:
            self.torch.set_default_dtype(default)

    # --- distributions

    def uniform(self, seed, shape, dtype="float64"):
        generator = np.random.default_rng(seed)
        return self.array(generator.uniform(size=shape), dtype)

    def sample(self, d, seed, shape=()):
        """Draw a value without gradients."""
        self.torch.manual_seed(seed)
        return d.sample(shape)

    def sample_own(self, d, seed, shape=()):
        """Draw a value along its path, and its log-density scored from the noise."""
        self.torch.manual_seed(seed)
        value = d.rsample(shape)
        return value, d.log_prob(value)

    def rebuilt(self, value):
        """The same value after an operation that does nothing."""
        return value + 0

    def kl(self, p, q):
        return self.torch.distributions.kl_divergence(p, q)

    def biject_to(self, support):
        return self.torch.distributions.biject_to(support)

    def inverse(self, transform, value):
        return transform.inv(value)

    def in_support(self, d, value):
        return d.support.check(value)

    # --- programs

    def one_hot(self, logits):
        return self.dist.OneHotCategorical(logits=logits)

    def site(self, *args, **kwargs):
        return self.pyro.sample(*args, **kwargs)

    def plate(self, *args, **kwargs):
        return self.pyro.plate(*args, **kwargs)

    def param(self, name, value=None):
        """Read a parameter; it starts at the value unless it is set already."""
        return self.pyro.param(name, value)

    def deterministic(self, name, value):
        return self.pyro.deterministic(name, value)

    def condition(self, fn, data):
        return self.pyro.poutine.condition(fn, data)

    def block(self, fn, hide):
        return self.pyro.poutine.block(fn, hide=hide)

    def mask(self, mask):
        return self.pyro.poutine.mask(mask=mask)

    def scale(self, scale):
        return self.pyro.poutine.scale(scale=scale)

    def reparam(self, fn, config):
        return self.pyro.poutine.reparam(fn, config=config)

    def call(self, fn, *args, seed=0):
        """Run a program with a seed and return its result."""
        self.torch.manual_seed(seed)
        return fn(*args)

    def trace(self, fn, *args, seed=0):
        """Run a program: its sites by name, with value, fn, scale, mask, infer."""
        self.torch.manual_seed(seed)
        trace = self.pyro.poutine.trace(fn).get_trace(*args)
        return {k: s for k, s in trace.nodes.items() if s["type"] == "sample"}

    def log_prob(self, fn, *args, values=None, seed=0):
        """Log-densities of the sites of a program whose sites take these values."""
        self.torch.manual_seed(seed)
        fn = self.pyro.poutine.condition(fn, values or {})
        trace = self.pyro.poutine.trace(fn).get_trace(*args)
        trace.compute_log_prob()
        sites = trace.nodes.items()
        return {k: s["log_prob_sum"] for k, s in sites if s["type"] == "sample"}

    def inspect(self, fn, *args):
        """The sites of a program by name, for what they are: see `trace`."""
        return self.trace(fn, *args)

    def arguments(self, data):
        """Arrays of NumPy among the arguments of a model as arrays of the host."""
        tensor = self.torch.as_tensor
        return [tensor(x) if isinstance(x, np.ndarray) else x for x in data]

    def is_latent(self, site):
        """Whether a traced site is sampled, and neither observed nor a plate."""
        return self.is_scored(site) and not site["is_observed"]

    def is_scored(self, site):
        plate = type(site["fn"]).__name__ == "_Subsample"
        return not plate and "_deterministic" not in site["infer"]

    def is_discrete_latent(self, site):
        return self.is_latent(site) and site["fn"].support.is_discrete

    def is_bit(self, site):
        leaf = self.relaxation.site.leaf_of(site["fn"])
        return isinstance(leaf, self.distributions.LogitBinaryConcrete)

    def log_softmax(self, x):
        return x.log_softmax(-1)

    def gradients(self, fn, *args):
        """Gradients as of `grad`; zeros where the function ignores an array."""
        args = [a.detach().requires_grad_() for a in args]
        total = fn(*args) + 0 * sum(a.sum() for a in args)
        return self.torch.autograd.grad(total, args)

    def jitted(self, fn):
        """The function, which is not compiled here."""
        return fn

    def two_steps(self, *args, **kwargs):
        """Losses and parameters of two steps of SVI."""
        return self.train(*args, steps=2, **kwargs)

    def elbo(self, kind, particles=1, **kwargs):
        return getattr(self.pyro.infer, f"{kind}_ELBO")(
            num_particles=particles, vectorize_particles=particles > 1, **kwargs
        )

    def loss(self, kind, model, guide, *args, params=None, particles=1, seed=0):
        """The loss of an ELBO at these parameters, as a number."""
        self.pyro.clear_param_store()
        self.torch.manual_seed(seed)
        for name, value in (params or {}).items():
            self.pyro.param(name, value.detach().clone())
        elbo = self.elbo(kind, particles, max_plate_nesting=1)
        return float(elbo.loss(model, guide, *args))

    def loss_grad(self, kind, model, guide, *args, params, particles=1, seed=0):
        """Gradients of the loss in the parameters, as NumPy arrays by name."""
        self.pyro.clear_param_store()
        self.torch.manual_seed(seed)
        for name, value in params.items():
            self.pyro.param(name, value.detach().clone())
        elbo = self.elbo(kind, particles, max_plate_nesting=1)
        elbo.loss_and_grads(model, guide, *args)
        store = self.pyro.get_param_store()
        return {k: self.numpy(v.grad) for k, v in store._params.items()}

    def differentiable_loss(self, kind, model, guide, seed=0):
        """The loss as a scalar in the graph of whatever the programs close over."""
        self.torch.manual_seed(seed)
        return self.elbo(kind).differentiable_loss(model, guide)

    def train(self, kind, model, guide, *args, steps=20, lr=0.05, seed=0, **kwargs):
        """Train by SVI from a fresh state and return the losses and parameters."""
        self.pyro.clear_param_store()
        self.torch.manual_seed(seed)
        optimiser = self.pyro.optim.Adam({"lr": lr})
        svi = self.pyro.infer.SVI(model, guide, optimiser, self.elbo(kind, **kwargs))
        losses = [svi.step(*args) for _ in range(steps)]
        store = self.pyro.get_param_store()
        return np.array(losses), {k: v.detach().clone() for k, v in store.items()}

    def predictive(self, model, guide, *args, params=None, samples=4, **kwargs):
        self.pyro.clear_param_store()
        for name, value in (params or {}).items():
            self.pyro.param(name, value)
        predictive = self.pyro.infer.Predictive(
            model, guide=guide, num_samples=samples, **kwargs
        )
        return predictive(*args)


class NumPyroBackend:
    """JAX and NumPyro, with numpyro_concrete."""

    name = "numpyro"

    def __init__(self):
        import jax
        import jax.numpy as jnp
        import numpyro

        jax.config.update("jax_enable_x64", True)
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

    def param(self, name, value=None):
        """Read a parameter; it starts at the value unless it is set already."""
        return self.numpyro.param(name, value)

    def deterministic(self, name, value):
        return self.numpyro.deterministic(name, value)

    def condition(self, fn, data):
        return self.numpyro.handlers.condition(fn, data)

    def block(self, fn, hide):
        return self.numpyro.handlers.block(fn, hide=hide)

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
        leaf = self.relaxation.site.leaf_of(site["fn"])
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

    def train(self, kind, model, guide, *args, steps=20, lr=0.05, seed=0, **kwargs):
        """Train by SVI from a fresh state and return the losses and parameters."""
        optimiser = self.numpyro.optim.Adam(lr)
        elbo = self.elbo(kind, **kwargs)
        svi = self.numpyro.infer.SVI(model, guide, optimiser, elbo)
        key = self.jax.random.key(seed)
        result = svi.run(key, steps, *args, progress_bar=False)
        return np.asarray(result.losses), result.params

    def predictive(self, model, guide, *args, params=None, samples=4, **kwargs):
        kwargs.pop("parallel", None)  # NumPyro's is always vectorised
        predictive = self.numpyro.infer.Predictive(
            model, guide=guide, params=params or {}, num_samples=samples, **kwargs
        )
        return predictive(self.jax.random.key(0), *args)


@contextlib.contextmanager
def ignoring_jit_warnings():
    """Silence what torch.jit.trace says of itself: it is deprecated and cautious."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        yield
