"""torch: the functions and methods that dispatch on the types of their arguments."""

import numpy as np
import torch
from backends import get_backend
from torch.overrides import get_overridable_functions

from api_sweep.arguments import KINDS, values_at
from api_sweep.calls import constants
from api_sweep.programs import point, results_of, run_relaxed
from api_sweep.sweep import Function, Leaf, leaves_and_kinds, operators

NAMESPACES = {
    "torch": torch,
    "F": torch.nn.functional,
    "special": torch.special,
    "linalg": torch.linalg,
    "fft": torch.fft,
    "Tensor": torch.Tensor,
}
DTYPES = {"integers": torch.int64, "floats": torch.float64, "booleans": torch.bool}


class PyroHost:
    """What the sweep needs of torch and Pyro."""

    name = "pyro"
    kinds = KINDS
    calls_per_function = 3
    compiles = False

    def __init__(self):
        self.spelling = {"axis": "dim", "keep": "keepdim", "float": "torch.float64"}
        self.backend = get_backend("pyro")
        self.arrays = constants()

    def functions(self):
        """Public functions that dispatch on their arguments and write to none.

        Of the methods, those that torch has as functions as well are left out.
        """
        dispatching = get_overridable_functions()
        found = []
        for prefix, namespace in NAMESPACES.items():
            known = {id(f) for f in dispatching.get(namespace, ())}
            for name in filter(takes_part, dir(namespace)):
                is_repeated = namespace is torch.Tensor and hasattr(torch, name)
                function = getattr(namespace, name, None)
                if id(function) in known and not is_repeated:
                    found.append(Function(f"{prefix}.{name}", function))
        return found + operators()

    def constants(self):
        """The plain arrays of the calls; new ones, as some functions write to them."""
        arrays = {name: torch.tensor(x) for name, x in self.arrays.items()}
        return arrays | {"torch": torch}

    def accepts(self, case):
        """Whether plain arguments can be used, and no random numbers are."""
        state = torch.get_rng_state()
        try:
            self.run_on_plain_values([case], case.kind)
        except Exception:
            return False
        leaves = case.results[-1]
        is_random = not torch.equal(state, torch.get_rng_state())
        are_numbers = all(leaf.number.dtype.kind in "biuf" for leaf in leaves)
        return bool(leaves) and are_numbers and not is_random

    def run_on_plain_values(self, cases, kind):
        """Fill in what each case gives at every value of its arguments."""
        for case in cases:
            case.results = [self.plain_result(case, a) for a in case.assignments]

    def plain_result(self, case, assignment):
        values = values_at(case.kind, case.arguments, assignment)
        dtype = DTYPES[case.kind]
        tensors = {name: torch.tensor(x, dtype=dtype) for name, x in values.items()}
        pairs = zip(*leaves_and_kinds(self, case, tensors), strict=True)
        return [Leaf(np.asarray(self.numpy(x)), kind) for x, kind in pairs]

    def soft_results(self, cases, kind):
        """A function from probabilities to what each case gives."""

        def results_at(probabilities):
            at_point = point(self.backend, kind, probabilities)
            with torch.no_grad():
                outcomes, arrays = run_relaxed(self, cases, kind, at_point)
            return results_of(self, outcomes, arrays)

        return results_at

    def is_array(self, x):
        return isinstance(x, torch.Tensor)

    def dtype(self, x):
        return self.backend.dtype(x)

    def numpy(self, x):
        return self.backend.numpy(x)


def takes_part(name):
    """Leave out what is private, writes to its arguments or leaves memory as it is.

    A binomial draw takes no random number where it is certain.
    """
    is_public = name[0] != "_" and name[-1] != "_"
    return is_public and "empty" not in name and name != "binomial"
