"""JAX: jax.numpy, jax.nn, jax.lax, jax.scipy.special and the methods of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from backends import get_backend

from api_sweep.arguments import assignments, values_at
from api_sweep.calls import constants
from api_sweep.programs import point, results_of, run_relaxed
from api_sweep.sweep import Function, Leaf, leaves_and_kinds, operators

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
    calls_per_function = 2  # each of them is compiled
    compiles = True

    def __init__(self):
        self.spelling = {"axis": "axis", "keep": "keepdims", "float": "jnp.float64"}
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
        # The other methods are functions of jax.numpy.
        methods = [n for n in dir(jnp.zeros(2)) if is_public(n) and not hasattr(jnp, n)]
        found += [Function(f"Array.{name}", method(name)) for name in methods]
        return found + operators()

    def constants(self):
        return self.arrays | {"jnp": jnp}

    def accepts(self, case):
        """Whether JAX can lower a call with plain arguments; nothing is compiled."""
        values = values_at(case.kind, case.arguments, case.assignments[0])
        kinds = []

        def traced(arrays):
            leaves, found = leaves_and_kinds(self, case, arrays)
            kinds.extend(found)
            return leaves

        try:
            jax.jit(traced).lower(self.plain(values, case.kind))
        except Exception:
            return False
        return bool(kinds) and not any(
            "complex" in str(k) or "key" in str(k) for k in kinds
        )

    def plain(self, values, kind):
        return {name: jnp.asarray(x, DTYPES[kind]) for name, x in values.items()}

    def run_on_plain_values(self, cases, kind, *, compiled=True):
        """Fill in what each case gives at every value of its arguments.

        Cases with the same arguments are compiled together.
        """
        groups = {}
        for case in cases:
            groups.setdefault(case.arguments, []).append(case)
        for arguments, group in groups.items():
            kinds = []

            def traced(arrays, group=group, kinds=kinds):
                both = [leaves_and_kinds(self, case, arrays) for case in group]
                kinds[:] = [found for _, found in both]
                return [leaves for leaves, _ in both]

            run = jax.jit(traced)
            for case in group:
                case.results = []
            for assignment in assignments(kind, arguments):
                values = values_at(kind, arguments, assignment)
                with jax.disable_jit(not compiled):
                    results = jax.device_get(run(self.plain(values, kind)))
                for case, leaves, found in zip(group, results, kinds, strict=True):
                    pairs = zip(leaves, found, strict=True)
                    case.results.append(
                        [Leaf(np.asarray(self.numpy(x)), k) for x, k in pairs]
                    )

    def soft_results(self, cases, kind):
        """A function from probabilities to what each case gives; compiled as one."""
        outcomes = []

        @jax.jit
        def traced(at_point):
            found, arrays = run_relaxed(self, cases, kind, at_point)
            outcomes[:] = found
            return arrays

        def results_at(probabilities):
            arrays = traced(point(self.backend, kind, probabilities))
            return results_of(self, outcomes, jax.device_get(arrays))

        return results_at

    def is_array(self, x):
        # JAX knows arrays of its own that are none of its Array.
        return hasattr(x, "dtype") and hasattr(x, "shape")

    def dtype(self, x):
        return str(x.dtype)

    def numpy(self, x):
        return self.backend.numpy(x)


def is_public(name):
    return not name.startswith("_") and "empty" not in name


def method(name):
    """A method or property of arrays, as a function."""

    def call(self, *args, **kwargs):
        attribute = getattr(self, name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    return call
