"""The private API of Pyro and torch that this package uses.

Each function says why no public name serves. This was written from the source of Pyro
1.9.2 and torch 2.13; pyproject.toml bounds the versions. Where two versions differ,
branch inside of the function, so that callers need not know.

Counterpart: ``numpyro_concrete.internals``.
"""

import contextlib
import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
from pyro.distributions.distribution import COERCIONS
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, default_process_message
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor

# torch documents its dispatch modes and trees, and has them in private modules alone.
# `X as X` re-exports a name.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import register_pytree_node as register_pytree_node
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map

_Distribution = TypeVar("_Distribution")

if TYPE_CHECKING:
    Shape: TypeAlias = Sequence[int]
else:
    # Under torch.jit.trace sizes are tensors, which torch's own types do not know.
    Shape = Sequence

# What Pyro writes into the `infer` of the sites of ``pyro.deterministic``. It has no
# type for them, and `relax` makes such sites of others.
DETERMINISTIC = {"_deterministic": True}

# --- handlers -------------------------------------------------------------------------


def active_handlers() -> list[Messenger]:
    """Return the handlers around the running program, the outermost first.

    This is Pyro's own list, which changes as handlers are entered.

    A handler in Pyro knows nothing of the others. `relax` has to: it samples a second
    site past those inside of it, and runs discrete inside of `harden` and Predictive.
    """
    return _PYRO_STACK


def handle(handler: Messenger, msg: dict[str, Any]) -> None:
    """Let one handler act on a message, before there is a value.

    Pyro's only public way to do so is to enter the handler and to sample.
    """
    handler._process_message(msg)  # ty: ignore[invalid-argument-type]


def send(msg: dict[str, Any], handlers: Sequence[Messenger]) -> None:
    """Send a message to some handlers, as a sample statement does to all.

    The steps are those of ``pyro.poutine.runtime.apply_stack``, which takes no list.

    Args:
        msg: Message, which is changed in place.
        handlers: Handlers, the outermost first.
    """
    message: Any = msg
    reached = []
    for handler in reversed(handlers):
        reached.append(handler)
        handler._process_message(message)
        if msg["stop"]:
            break
    default_process_message(message)
    for handler in reversed(reached):
        handler._postprocess_message(message)
    if msg["continuation"] is not None:
        msg["continuation"](msg)


def is_autoname(handler: Messenger) -> bool:
    """Tell whether a handler is one of ``pyro.contrib.autoname``, which rename sites.

    By the name of its module, which models without scopes do not import.
    """
    return "autoname" in type(handler).__module__


def is_scope(handler: Messenger) -> bool:
    """Tell whether a handler is a scope of ``pyro.contrib.autoname``."""
    return type(handler).__module__.endswith("autoname.scoping")


def is_vectorized_markov(handler: Messenger) -> bool:
    """Tell whether a handler is ``pyro.contrib.funsor.vectorized_markov``.

    By its name, since importing its module needs funsor.
    """
    return type(handler).__name__ == "VectorizedMarkovMessenger"


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Tell whether a site is one of ``pyro.deterministic``, or one that `relax` made.

    Pyro has no type for them: they are observed sites with this private key.
    """
    return bool(site["infer"].get("_deterministic"))


def markov_notes(infer: dict[str, Any]) -> dict[str, Any]:
    """Return what ``pyro.markov`` has noted in the `infer` of a site.

    A second site at the same place needs the same notes, and the handler that writes
    them has let the message pass already.
    """
    return {key: value for key, value in infer.items() if key.startswith("_markov")}


def subsample_of(plate: SubsampleMessenger) -> Tensor | None:
    """Return the indices that a plate has drawn.

    The public property makes indices where a plate without a size has none.
    """
    return plate._indices


def mark_uninitialized(value: Tensor) -> None:
    """Mark a value for the start of a guide as one that nobody chose.

    Reparameterizers such as ConcreteReparam may then ignore it. Pyro's own
    initializers set the same attribute.
    """
    value._pyro_custom_init = False  # ty: ignore[missing-attribute]


# --- distributions --------------------------------------------------------------------


def wrapper_mask(fn: MaskedDistribution) -> Tensor | bool:
    """Return the mask of a masked distribution, which has no public name."""
    return fn._mask


def without_validation(fn: Any) -> Any:
    """Return a distribution that does not validate values.

    `validate_args` is an argument of constructors; a distribution that exists already
    keeps it in a private attribute.
    """
    unvalidated = copy.copy(fn)
    unvalidated._validate_args = False
    return unvalidated


def stored_probs(fn: Any) -> Tensor | None:
    """Return the probabilities of a discrete distribution, or None if it has logits.

    The public name `probs` computes them from the logits.
    """
    fn = getattr(fn, "_categorical", fn)  # inside of OneHotCategorical
    return vars(fn).get("probs")


# --- torch ----------------------------------------------------------------------------


def has_transforms() -> bool:
    """Tell whether a transform of ``torch.func`` runs, such as ``vmap``.

    torch.func has no function that says so.
    """
    return torch._C._are_functorch_transforms_active()


def storage_key(x: Tensor) -> int:
    """Return a number that tensors share that view the same memory.

    The public ``data_ptr`` is zero for tensors without memory, as on "meta".
    """
    return x.untyped_storage()._cdata


# --- soft integers --------------------------------------------------------------------


def tensor_without_data(
    cls: type, shape: Shape, dtype: torch.dtype, device: torch.device
) -> Any:
    """Return a tensor of a subclass that has a shape and a type, and no data.

    torch documents tensor subclasses without data, and has no public constructor.
    """
    return Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)


def number_of_writes(x: Tensor) -> int:
    """Return how often a plain tensor was written into.

    Autograd counts this, and shows it to nobody else.
    """
    return x._version


def is_tracing() -> bool:
    """Tell whether ``torch.jit.trace`` runs, without a graph break under a compiler."""
    return torch._C._get_tracing_state() is not None


@contextlib.contextmanager
def untraced() -> Generator[None]:
    """Compute constants without a tracer that would record them.

    torch pauses its tracer in the same way, in a private function.
    """
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # ty: ignore[missing-attribute]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # ty: ignore[missing-attribute]


def without_torch_function() -> AbstractContextManager:
    """Return a context in which subclasses are plain tensors.

    The public ``torch.overrides`` has no such context for one call.
    """
    return torch._C.DisableTorchFunctionSubclass()


def with_parameters(
    fn: _Distribution, parameters: Mapping[str, Tensor], batch_shape: Shape
) -> _Distribution:
    """Return a distribution with other parameters, in another batch shape.

    `expand` changes the shape of parameters that have dimensions for the values of
    soft integers; the attributes of a copy do not.
    """
    replaced: Any = copy.copy(fn)
    vars(replaced).update(parameters)
    replaced._batch_shape = torch.Size(batch_shape)
    replaced._validate_args = False
    return replaced


# --- distributions --------------------------------------------------------------------


def intercept_construction(
    constructor: Callable[[type, tuple, dict[str, Any]], Any],
) -> None:
    """Let a function construct Pyro's distributions, or return None where Pyro shall.

    Pyro's metaclass asks the functions of this list, which its handler for funsor
    changes as well; a subclass of each distribution would have another type.

    Args:
        constructor: Function of a class, positional and keyword arguments.
    """
    COERCIONS.insert(0, constructor)
