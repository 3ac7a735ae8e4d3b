"""PyTorch and Pyro: see the package."""

import contextlib
import io
import os

import numpy as np

from backends import ignoring_jit_warnings


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
        # A run may put every tensor on a GPU, those of the tests' own models included.
        self.device = os.environ.get("CONCRETE_TEST_DEVICE", "cpu")
        if self.device != "cpu":
            torch.set_default_device(self.device)

    # --- arrays

    def has_device(self, device):
        return device == "cpu" or self.torch.cuda.is_available()

    @contextlib.contextmanager
    def on(self, device):
        before = self.device
        self.device = device
        try:
            yield
        finally:
            self.device = before

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

    def markov(self, steps):
        """A loop whose steps depend on the last one."""
        return self.pyro.markov(range(steps))

    def set_at(self, x, index, value):
        """The tensor with another value at an index, which is written in place."""
        x[index] = value
        return x

    def vmap(self, fn):
        return self.torch.vmap(fn)

    def param(self, name, value=None, **kwargs):
        """Read a parameter; it starts at the value unless it is set already."""
        return self.pyro.param(name, value, **kwargs)

    def deterministic(self, name, value):
        return self.pyro.deterministic(name, value)

    def factor(self, name, value):
        return self.pyro.factor(name, value)

    def condition(self, fn, data):
        return self.pyro.poutine.condition(fn, data)

    def block(self, fn, hide):
        return self.pyro.poutine.block(fn, hide=hide)

    def scope(self, fn, prefix):
        from pyro.contrib.autoname import scope

        return scope(fn, prefix=prefix)

    def replay(self, fn, other, *args, only=None):
        """The program with the values of a run of another at the sites named."""
        trace = self.pyro.poutine.trace(other).get_trace(*args)
        for name in list(trace.nodes):
            if only is not None and name not in only:
                trace.remove_node(name)
        return self.pyro.poutine.replay(fn, trace=trace)

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
        leaf = self.relaxation.wrappers.leaf_of(site["fn"])
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
        if not isinstance(kind, str):
            return kind
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

    # --- AutoConcrete

    def leaf_of(self, fn):
        return self.relaxation.wrappers.leaf_of(fn)

    def init_to_median(self, site):
        return self.pyro.infer.autoguide.init_to_median(site)

    def auto_normal(self, model):
        return self.pyro.infer.autoguide.AutoNormal(model)

    def guide_list(self, model, *parts):
        guides = self.pyro.infer.autoguide.AutoGuideList(model)
        for part in parts:
            guides.append(part)
        return guides

    def initial_params(self, guide, *args):
        """Set a guide up, and return its parameters."""
        self.pyro.clear_param_store()
        self.torch.manual_seed(0)
        with self.double_precision():
            guide(*args)
        store = self.pyro.get_param_store()
        return {k: v.detach().clone() for k, v in store.items()}

    def probabilities(self, guide, params):
        return {k: self.numpy(v) for k, v in guide.probabilities().items()}

    def median(self, guide, params, *args):
        return {k: self.numpy(v) for k, v in guide.median(*args).items()}

    def quantiles(self, guide, params, levels, *args):
        found = guide.quantiles(levels, *args)
        return {k: self.numpy(v) for k, v in found.items()}

    def draws_of(self, fn, params, *args, name, draws):
        """Many draws of one site."""
        self.with_params(fn, params)
        self.torch.manual_seed(5)
        traces = (self.pyro.poutine.trace(fn).get_trace(*args) for _ in range(draws))
        return np.array([self.numpy(t.nodes[name]["value"]) for t in traces])

    def loss_grad_and_draws(self, kind, model, guide, *args, params, **kwargs):
        """The loss, its gradients, and the values that the guide has drawn."""
        drawn = {}

        def recording(*args):
            drawn.update(guide(*args))

        self.torch.manual_seed(3)
        elbo = self.elbo(kind, **kwargs)
        loss = elbo.loss_and_grads(model, recording, *args)
        grads = self._gradients()
        return loss, grads, {k: self.numpy(v) for k, v in drawn.items()}

    def sampled_gradients(self, kind, model, guide, *args, params, draws, **kwargs):
        """Gradients of the loss in each parameter, for each of many draws."""
        self.torch.manual_seed(4)
        elbo, found = self.elbo(kind, **kwargs), []
        for _ in range(draws):
            elbo.loss_and_grads(model, guide, *args)
            found.append(self._gradients())
        return {k: np.array([x[k] for x in found]) for k in found[0]}

    def objective(self, name, particles, plates):
        """An ELBO of ours or of the host, of many particles at once."""
        ours = getattr(self.package, name, None)
        family = ours or getattr(self.pyro.infer, f"{name}_ELBO")
        nesting = {"max_plate_nesting": plates, "vectorize_particles": True}
        return family(num_particles=particles, **nesting)

    def gradient_sampler(self, objective, model, guide, params):
        """A function from a number of batches and a seed to gradients of the ELBO.

        Each gradient is the mean of as many draws as the objective has particles. They
        are arrays by name of the parameter, batches first.
        """

        def sample(batches, seed):
            self.pyro.clear_param_store()
            for name, value in params.items():
                self.pyro.param(name, self.array(value))
            found = []
            for batch in range(batches):
                # Estimators that begin with the same noise do so in each batch.
                self.torch.manual_seed(1_000_000 * seed + batch)
                objective.loss_and_grads(model, guide)
                found.append(self._gradients())
            return {k: -np.array([x[k] for x in found]) for k in params}

        return sample

    def _gradients(self):
        """Gradients of the parameters, which then are zero again."""
        store = self.pyro.get_param_store()._params
        grads = {k: self.numpy(v.grad).copy() for k, v in store.items()}
        for value in store.values():
            value.grad = None
        return grads

    def infer_discrete(self, model, guide, *args, params):
        """The most probable values of enumerated sites; relaxed ones are drawn."""
        with self.torch.no_grad():
            hard = self.package.harden(guide)
            drawn = self.pyro.poutine.trace(hard).get_trace(*args)
            model = self.pyro.poutine.replay(model, trace=drawn)
            infer = self.pyro.infer.infer_discrete
            model = infer(model, first_available_dim=-2, temperature=0)
            trace = self.pyro.poutine.trace(model).get_trace(*args)
        sites = trace.nodes.items()
        return {k: self.numpy(s["value"]) for k, s in sites if s["type"] == "sample"}

    # --- training

    def with_params(self, fn, params):
        """The program with these values of its parameters."""
        self.pyro.clear_param_store()
        for name, value in params.items():
            self.pyro.param(name, value)
        return fn

    def optimiser(self, lr, counted):
        optimiser = self.pyro.optim.Adam({"lr": lr})
        return self.package.schedules.count_steps(optimiser) if counted else optimiser

    def train_in_parts(self, model, guide, *args, parts, lr=0.05):
        """Train, saved to disk and restored between the parts: the parameters."""
        store = self.pyro.get_param_store()
        self.pyro.clear_param_store()
        self.torch.manual_seed(0)
        saved = None
        for steps in parts:
            optimiser = self.optimiser(lr, counted=True)
            if saved is not None:
                state = self.torch.load(io.BytesIO(saved), weights_only=False)
                store.set_state(state["params"])
                optimiser.set_state(state["optimiser"])
                self.torch.set_rng_state(state["random"])
            svi = self.pyro.infer.SVI(model, guide, optimiser, self.elbo("Trace"))
            for _ in range(steps):
                svi.step(*args)
            random = self.torch.get_rng_state()
            state = {"params": store.get_state(), "random": random}
            file = io.BytesIO()
            self.torch.save(state | {"optimiser": optimiser.get_state()}, file)
            saved = file.getvalue()
            values = {k: self.numpy(v) for k, v in store.items()}
            self.pyro.clear_param_store()
            self.torch.manual_seed(99)
        return values

    def train_compiled(self, model, guide, *args, runs, steps):
        """Train by a traced ELBO: parameters, and the runs that tracing took."""
        self.pyro.clear_param_store()
        elbo = self.pyro.infer.JitTrace_ELBO(ignore_jit_warnings=True)
        optimiser = self.optimiser(0.01, counted=True)
        svi = self.pyro.infer.SVI(model, guide, optimiser, elbo)
        with ignoring_jit_warnings():
            svi.step(*args)
            before = len(runs)
            for _ in range(20):
                svi.step(*args)
        store = self.pyro.get_param_store()
        store[self.package.schedules.STEP_PARAM] = self.torch.tensor(float(steps))
        return {k: v.detach().clone() for k, v in store.items()}, before

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
        self.pyro.clear_param_store()
        self.torch.manual_seed(seed)
        optimiser = self.optimiser(lr, counted)
        svi = self.pyro.infer.SVI(model, guide, optimiser, self.elbo(kind, **kwargs))
        losses = [svi.step(*args) for _ in range(steps)]
        store = self.pyro.get_param_store()
        return np.array(losses), {k: v.detach().clone() for k, v in store.items()}

    def predict(self, model, posterior_samples, *args, **kwargs):
        """Predictions at samples of a posterior."""
        family = self.pyro.infer.Predictive
        return family(model, posterior_samples=posterior_samples, **kwargs)(*args)

    def predictive(self, model, guide, *args, params=None, samples=4, **kwargs):
        self.pyro.clear_param_store()
        for name, value in (params or {}).items():
            self.pyro.param(name, value)
        predictive = self.pyro.infer.Predictive(
            model, guide=guide, num_samples=samples, **kwargs
        )
        return predictive(*args)

    # --- objectives

    def evaluate(self, fn, *args, params=None, seed=0, **kwargs):
        """Call an objective of ours on programs, with parameters and a seed."""
        self.pyro.clear_param_store()
        for name, value in (params or {}).items():
            self.pyro.param(name, value.detach().clone())
        self.torch.manual_seed(seed)
        return fn(*args, **kwargs)

    def renyi_bound(self, model, guide, *args, particles, seed=0):
        """The host's own multi-sample bound, of all particles at once."""
        self.torch.manual_seed(seed)
        settings = {"vectorize_particles": True, "max_plate_nesting": 1}
        elbo = self.pyro.infer.RenyiELBO(0, num_particles=particles, **settings)
        return -elbo.loss(model, guide, *args)

    def gradient_by_route(self, route, elbo, programs, values, seed=0):
        """Gradients in values that reach the programs as arguments or by a closure.

        Args:
            route: "arguments", "closure", or "module" for a `torch.nn.Module`.
            elbo: The objective.
            programs: From a function of the arguments to the values by name, the model
                and the guide.
            values: Arrays by name.
            seed: Seed of the draws.
        """
        self.pyro.clear_param_store()
        self.torch.manual_seed(seed)
        values = {k: self.torch.tensor(v).requires_grad_() for k, v in values.items()}
        if route == "arguments":
            elbo.loss_and_grads(*programs(lambda values: values), values)
        elif route == "closure":
            elbo.loss_and_grads(*programs(lambda: values))
        else:
            parameters = {k: self.torch.nn.Parameter(v) for k, v in values.items()}
            module = self.torch.nn.ParameterDict(parameters)

            def registered():
                self.pyro.module("net", module)
                return module

            elbo.loss_and_grads(*programs(registered))
            values = parameters
        return {k: v.grad.numpy() for k, v in values.items()}

    def renyi_loss_and_grads(self, model, guide, *, params, particles):
        """The backend's own multi-sample loss, of the draws that IWAE has."""

        def after_a_draw(*args):
            if not drawn:
                drawn.append(
                    self.torch.randint(2**62, ())
                )  # IWAE has a seed for plates
            return guide(*args)

        drawn = []
        settings = {"vectorize_particles": True, "max_plate_nesting": 1}
        elbo = self.pyro.infer.RenyiELBO(0, num_particles=particles, **settings)
        return self.evaluated(elbo, model, after_a_draw)(params)

    def evaluated(self, elbo, model, guide, *args):
        """An objective's loss and gradients by name, as a function of parameters."""

        def evaluate(params, seed=0):
            self.pyro.clear_param_store()
            self.torch.manual_seed(seed)
            for name, value in params.items():
                self.pyro.param(name, self.torch.as_tensor(value).clone())
            loss = elbo.loss_and_grads(model, guide, *args)
            return loss, self._gradients()

        return evaluate

    def largest_array(self, fn):
        """Number of elements of the largest array that a call computes."""
        from torch.utils._python_dispatch import TorchDispatchMode

        torch, sizes = self.torch, []

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor):
                    sizes.append(result.numel())
                return result

        with Mode():
            fn()
        return max(sizes)

    def number_of_operations(self, elbo, model, guide, params):
        """Number of operations that the loss and its gradients take."""
        from torch.utils._python_dispatch import TorchDispatchMode

        operations = []

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                operations.append(function)
                return function(*args, **(kwargs or {}))

        with Mode():
            self.evaluated(elbo, model, guide)(params)
        return len(operations)
