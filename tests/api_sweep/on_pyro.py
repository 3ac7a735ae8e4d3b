"""torch: the functions and methods that dispatch on the types of their arguments."""

import torch
from torch.overrides import get_overridable_functions

from api_sweep.arguments import KINDS
from api_sweep.calls import constants
from api_sweep.programs import soft_results
from api_sweep.sweep import Function, operators
from backends import get_backend

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
    spelling = {"axis": "dim", "keep": "keepdim", "float": "torch.float64"}

    def __init__(self):
        self.backend = get_backend("pyro")
        self.arrays = constants()

    def functions(self):
        """Public functions that dispatch on their arguments and write to none."""
        dispatching = get_overridable_functions()
        found = []
        for prefix, namespace in NAMESPACES.items():
            known = {id(f) for f in dispatching.get(namespace, ())}
            names = [n for n in dir(namespace) if n[0] != "_" and n[-1] != "_"]
            functions = {n: getattr(namespace, n, None) for n in names}
            found += [
                Function(f"{prefix}.{n}", f)
                for n, f in functions.items()
                if id(f) in known
            ]
        return found + operators()

    def constants(self):
        """The plain arrays of the calls; new ones, as some functions write to them."""
        arrays = {name: torch.tensor(x) for name, x in self.arrays.items()}
        return arrays | {"torch": torch}

    def is_traceable(self, case, values):
        return True

    def is_array(self, x):
        return isinstance(x, torch.Tensor)

    def dtype(self, x):
        return self.backend.dtype(x)

    def numpy(self, x):
        return self.backend.numpy(x)

    def plain(self, x, kind):
        return torch.tensor(x, dtype=DTYPES[kind])

    def soft_results(self, cases, kind, probabilities):
        with torch.no_grad():
            return soft_results(self, cases, kind, probabilities)
