"""The adaptor of each backend: names of a program, and how to run it relaxed."""

import contextlib
import functools
import warnings
from types import SimpleNamespace

import numpy as np
from backends import get_backend

TEMPERATURE = 0.5


class PartError(Exception):
    """A part of a program raised an error."""

    def __init__(self, part, error):
        super().__init__(f"{type(error).__name__}: {error}")
        self.part, self.error = part, error


@functools.cache
def _compiled(source):
    return compile(source, "program", "exec")


class AbstractHost:
    """Runs programs of one backend.

    Attributes:
        names: The names that the source of a program uses.
        corners: Number of corners at which programs are compared.
        largest_support: Largest number of joint values of the sites.
        shapes: Shapes of the sites.
    """

    corners: int
    largest_support: int
    shapes: tuple

    def __init__(self, name):
        self.name = name
        self.backend = backend = get_backend(name)
        self.names = {
            "sample": backend.site,
            "plate": backend.plate,
            "dist": backend.dist,
            "xp": backend.xp,
            "array": backend.array,
        }

    def execute(self, part, names):
        """Run one part with these names, which it adds to."""
        try:
            exec(_compiled("\n".join(part.lines(self.name))), names)
        except Exception as error:
            raise PartError(part, error) from error

    def relaxed(self, program, kinds):
        """The relaxed program: a function that returns its variables by name.

        A run enters the shape and type of each variable into `kinds`, for soft values
        have these only inside of the program.
        """

        def model():
            names = dict(self.names)
            for part in program.parts:
                self.execute(part, names)
            found = {name: names[name] for name in program.variables}
            kinds.update({name: self.kind(x) for name, x in found.items()})
            return found

        ends = {
            site.target: site.family.values[-1]
            for site in program.sites
            if site.family.is_truncated
        }
        return self.backend.package.relax(model, TEMPERATURE, truncate=ends or None)

    def score(self, observation, site):
        """The log-probability of an observed site."""
        try:
            return site["fn"].log_prob(site["value"]).sum()
        except Exception as error:
            raise PartError(observation, error) from error

    def kind(self, x):
        return tuple(x.shape), self.backend.dtype(x)

    def numpy(self, x):
        return np.asarray(self.backend.numpy(x))

    @contextlib.contextmanager
    def quiet(self):
        """Compute in double precision, without warnings."""
        with warnings.catch_warnings(), self.backend.double_precision():
            warnings.simplefilter("ignore")
            yield


class PyroHost(AbstractHost):
    """torch and Pyro."""

    corners = 5
    largest_support = 48
    shapes = ((), (), (), (2,), (2,), (3,), (1,), (2, 1))

    def __init__(self):
        super().__init__("pyro")
        self.names["F"] = self.backend.torch.nn.functional

    def seeded(self):
        """A context in which plates can draw subsamples."""
        return contextlib.nullcontext()

    def results(self, program, point):
        """Variables and log-probability of a relaxed program at a point; the kinds."""
        pyro, kinds = self.backend.pyro, {}
        at_point = pyro.poutine.condition(self.relaxed(program, kinds), point)
        self.backend.torch.manual_seed(0)
        trace = pyro.poutine.trace(at_point).get_trace()
        variables = trace.nodes["_RETURN"]["value"]
        observation = program.observation
        score = observation and self.score(observation, trace.nodes["y"])
        return variables, score, kinds

    def gradients(self, program, point, combinations):
        """Variables and log-probability at a point, and the gradients of each.

        Args:
            combinations: By name of a variable, a function of its size to weights with
                which its elements are added.
        """
        torch, plain = self.backend.torch, self.backend.soft_index.plain
        point = {name: x.requires_grad_() for name, x in point.items()}
        variables, score, _ = self.results(program, point)
        means = {name: plain(x).double() for name, x in variables.items()}
        if score is not None:
            means["y"] = plain(score).double()
        gradients = {}
        for name, x in means.items():
            total = (x.flatten() * torch.tensor(combinations(x.numel()))).sum()
            gradients[name] = self._gradient(total, point)
        return {name: x.detach().numpy() for name, x in means.items()}, gradients

    def _gradient(self, total, point):
        torch = self.backend.torch
        zeros = {name: np.zeros(x.shape) for name, x in point.items()}
        if not total.requires_grad:
            return zeros
        options = {"retain_graph": True, "allow_unused": True}
        try:
            found = torch.autograd.grad(total, [*point.values()], **options)
        except RuntimeError as error:
            if "derivative" not in str(error):
                raise
            return None  # torch itself has no derivative
        pairs = zip(zeros.items(), found, strict=True)
        return {name: zero if g is None else g.numpy() for (name, zero), g in pairs}


class NumPyroHost(AbstractHost):
    """JAX and NumPyro. Every new shape is compiled, so there are few of them."""

    corners = 2
    largest_support = 12
    shapes = ((), (), (2,))

    def __init__(self):
        super().__init__("numpyro")
        one_hot = self.backend.package.OneHotCategorical
        families = {**vars(self.backend.dist), "OneHotCategorical": one_hot}
        self.names |= {"dist": SimpleNamespace(**families), "jax": self.backend.jax}

    def seeded(self):
        """A context in which plates can draw subsamples."""
        return self.backend.numpyro.handlers.seed(rng_seed=0)

    def results(self, program, point):
        """Variables and log-probability of a relaxed program at a point; the kinds."""
        handlers, kinds = self.backend.numpyro.handlers, {}
        relaxed, variables = self.relaxed(program, kinds), {}

        def model():
            variables.update(relaxed())

        at_point = handlers.seed(handlers.substitute(model, point), 0)
        trace = handlers.trace(at_point).get_trace()
        observation = program.observation
        score = observation and self.score(observation, trace["y"])
        return variables, score, kinds

    def gradients(self, program, point, combinations):
        """Variables and log-probability at a point, and the gradients of each."""
        jax, jnp = self.backend.jax, self.backend.jnp

        def means_at(point):
            variables, score, _ = self.results(program, point)
            if score is not None:
                variables["y"] = score
            return {name: jnp.asarray(x, float) for name, x in variables.items()}

        means, pull_back = jax.vjp(means_at, point)
        zeros = {name: jnp.zeros_like(x) for name, x in means.items()}
        gradients = {}
        for name, x in means.items():
            weights = jnp.asarray(combinations(x.size)).reshape(x.shape)
            (found,) = pull_back({**zeros, name: weights})
            gradients[name] = {site: np.asarray(g) for site, g in found.items()}
        return {name: np.asarray(x) for name, x in means.items()}, gradients


def get_host(name):
    return {"pyro": PyroHost, "numpyro": NumPyroHost}[name]()
