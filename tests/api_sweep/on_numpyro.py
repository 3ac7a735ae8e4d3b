"""JAX: jax.numpy, jax.nn, jax.lax, jax.scipy.special and the methods of arrays."""

import jax
import jax.numpy as jnp

from api_sweep.calls import constants
from api_sweep.programs import soft_results
from api_sweep.sweep import Function, operators
from backends import get_backend

NAMESPACES = {
    "jnp": jnp,
    "nn": jax.nn,
    "lax": jax.lax,
    "special": jax.scipy.special,
    "linalg": jnp.linalg,
}
DTYPES = {"integers": "int64", "booleans": "bool"}


class NumPyroHost:
    """What the sweep needs of JAX and NumPyro."""

    name = "numpyro"
    kinds = tuple(DTYPES)
    spelling = {"axis": "axis", "keep": "keepdims", "float": "jnp.float64"}

    def __init__(self):
        self.backend = get_backend("numpyro")
        self.arrays = {name: jnp.asarray(x) for name, x in constants().items()}

    def functions(self):
        """Public functions; classes are left out."""
        found = []
        for prefix, namespace in NAMESPACES.items():
            for name in filter(is_public, dir(namespace)):
                function = getattr(namespace, name)
                if callable(function) and not isinstance(function, type):
                    found.append(Function(f"{prefix}.{name}", function))
        methods = filter(is_public, dir(jnp.zeros(2)))
        found += [Function(f"Array.{name}", method(name)) for name in methods]
        return found + operators()

    def constants(self):
        return self.arrays | {"jnp": jnp}

    def is_traceable(self, case, values):
        """Whether JAX can trace a call, which costs much less than to compile it."""
        arrays = {name: self.plain(x, case.kind) for name, x in values.items()}
        try:
            jax.eval_shape(lambda: case.run(self, arrays))
        except TypeError as error:
            # The result may be no array, and the call valid.
            return "is not a valid JAX type" in str(error)
        return True

    def is_array(self, x):
        return isinstance(x, jax.Array)

    def dtype(self, x):
        return str(x.dtype)

    def numpy(self, x):
        return self.backend.numpy(x)

    def plain(self, x, kind):
        return jnp.asarray(x, DTYPES[kind])

    def soft_results(self, cases, kind, probabilities):
        return soft_results(self, cases, kind, probabilities)


def is_public(name):
    return not name.startswith("_")


def method(name):
    """A method or property of arrays, as a function."""

    def call(self, *args, **kwargs):
        attribute = getattr(self, name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    return call
