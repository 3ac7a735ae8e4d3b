"""The adaptor of each backend: names of a program, and how to run it relaxed."""

import contextlib
import functools
import warnings
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Results:
    """The results of a relaxed program at a point.

    Attributes:
        means: Each variable, soft ones as their mean, and as `y` the log-probability
            of the observation.
        kinds: Shape and type of each variable.
        gradients: Those of each mean in the relaxed sites, by name of either.
    """

    means: dict[str, np.ndarray]
    kinds: dict[str, tuple]
    gradients: dict[str, dict[str, np.ndarray] | None]


def combination(size):
    """Weights with which the elements of a result are added, all of them different."""
    return np.cos(1.0 + np.arange(size))


class AbstractHost:
    """Runs programs of one backend.

    Attributes:
        names: The names that the source of a program uses.
        corners: Number of corners at which programs are compared.
        largest_support: Largest number of joint values of the sites.
        shapes: Shapes of the sites.
        simplifies_exponentials: Whether what is not finite in the discrete program can
            be a number of one-hot samples in the relaxed one.
    """

    corners: int
    largest_support: int
    shapes: tuple
    simplifies_exponentials = False

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
                self.check(part, names.get(part.target))
            found = {name: names[name] for name in program.variables}
            kinds.update({name: self.kind(x) for name, x in found.items()})
            return found

        ends = {
            site.target: site.family.values[-1]
            for site in program.sites
            if site.family.is_truncated
        }
        return self.backend.package.relax(model, TEMPERATURE, truncate=ends or None)

    def check(self, part, value):
        """Raise an error of the part if its value has no mean."""

    def forget_compiled(self):
        """Free what was compiled for programs that are done."""

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

    def check(self, part, value):
        try:
            self.backend.soft_index.plain(value)
        except TypeError as error:
            raise PartError(part, error) from error

    def without_gradient(self, x):
        return x.detach()

    def runner(self, program):
        """A function from a point of the relaxed sites to results there."""
        torch, plain = self.backend.torch, self.backend.soft_index.plain
        kinds = {}
        relaxed = self.relaxed(program, kinds)

        def run(point, with_gradients=False):
            point = {
                name: torch.tensor(x, requires_grad=True) for name, x in point.items()
            }
            variables = self._variables(program, relaxed, point)
            means = {name: plain(x).double() for name, x in variables.items()}
            gradients = {}
            for name, x in means.items() if with_gradients else ():
                weights = torch.tensor(combination(x.numel()))
                gradients[name] = self._gradient((x.flatten() * weights).sum(), point)
            arrays = {name: x.detach().numpy() for name, x in means.items()}
            return Results(arrays, kinds, gradients)

        return run

    def _variables(self, program, relaxed, point):
        """The variables at a point, and the log-probability of the observation."""
        poutine = self.backend.pyro.poutine
        self.backend.torch.manual_seed(0)
        trace = poutine.trace(poutine.condition(relaxed, point)).get_trace()
        variables = trace.nodes["_RETURN"]["value"]
        if program.observation:
            variables["y"] = self.score(program.observation, trace.nodes["y"])
        return variables

    def _gradient(self, total, point):
        """The gradient in each relaxed site; None if torch itself has no derivative."""
        zeros = {name: np.zeros(x.shape) for name, x in point.items()}
        if not total.requires_grad:
            return zeros
        options = {"retain_graph": True, "allow_unused": True}
        try:
            found = self.backend.torch.autograd.grad(
                total, [*point.values()], **options
            )
        except RuntimeError as error:
            if "derivative" not in str(error):
                raise
            return None
        pairs = zip(zeros.items(), found, strict=True)
        return {name: zero if g is None else g.numpy() for (name, zero), g in pairs}


class NumPyroHost(AbstractHost):
    """JAX and NumPyro. Whatever is new to JAX is compiled, so there is less of it."""

    corners = 3
    largest_support = 12
    shapes = ((), (), (2,))
    # XLA computes exp(a) / exp(b) as exp(a - b), and log(exp(a)) as a.
    simplifies_exponentials = True

    def __init__(self):
        super().__init__("numpyro")
        one_hot = self.backend.package.OneHotCategorical
        families = {**vars(self.backend.dist), "OneHotCategorical": one_hot}
        self.names |= {"dist": SimpleNamespace(**families), "jax": self.backend.jax}

    def seeded(self):
        """A context in which plates can draw subsamples."""
        return self.backend.numpyro.handlers.seed(rng_seed=0)

    def forget_compiled(self):
        # Each compiled function holds memory maps, of which a process has 65,530.
        self.backend.jax.clear_caches()

    def without_gradient(self, x):
        return self.backend.jax.lax.stop_gradient(x)

    def runner(self, program):
        """A function from a point of the relaxed sites to results there.

        It is compiled as a step of SVI is: one program costs less than its operations.
        """
        jax, jnp = self.backend.jax, self.backend.jnp
        kinds = {}
        relaxed = self.relaxed(program, kinds)

        def means_at(point):
            variables = self._variables(program, relaxed, point)
            return {name: jnp.asarray(x, float) for name, x in variables.items()}

        def means_and_gradients(point):
            means, pull_back = jax.vjp(means_at, point)
            zeros = {name: jnp.zeros_like(x) for name, x in means.items()}
            gradients = {}
            for name, x in means.items():
                weights = jnp.asarray(combination(x.size)).reshape(x.shape)
                (gradients[name],) = pull_back({**zeros, name: weights})
            return means, gradients

        compiled = self.backend.jitted(means_and_gradients)

        def run(point, with_gradients=False):
            means, gradients = jax.device_get(compiled(point))
            return Results(means, kinds, gradients)

        return run

    def _variables(self, program, relaxed, point):
        """The variables at a point, and the log-probability of the observation."""
        handlers, variables = self.backend.numpyro.handlers, {}

        def model():
            variables.update(relaxed())

        at_point = handlers.seed(handlers.substitute(model, point), 0)
        trace = handlers.trace(at_point).get_trace()
        if program.observation:
            variables["y"] = self.score(program.observation, trace["y"])
        return variables


def get_host(name):
    return {"pyro": PyroHost, "numpyro": NumPyroHost}[name]()
