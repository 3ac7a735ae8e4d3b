"""What torch's functions do with soft values: those that read no values.

Counterpart: none; JAX reads shapes and types from abstract values.
"""

from typing import Any

from torch import Tensor

from pyro_concrete.internals import is_tracing, without_torch_function
from pyro_concrete.soft_index.abstract import Call, rule, soft_leaves
from pyro_concrete.soft_index.averages import softs_of_integers
from pyro_concrete.soft_index.refusals import refusal
from pyro_concrete.soft_index.value import blank, plain


@rule("""
    size ndimension numel nelement len stride is_complex is_signed get_device
    element_size is_contiguous .requires_grad .is_cuda .is_leaf .layout .grad_fn
    .is_sparse .is_nested .is_mps .is_meta .is_cpu .is_quantized .itemsize .grad
    dim is_floating_point .shape .dtype .device .ndim .is_sparse_csr .is_mkldnn
    .is_mtia .is_vulkan .is_xla .is_xpu .is_ipu .is_maia .names .output_nr .nbytes
    is_inference is_neg is_conj has_names storage_offset dim_order is_same_size
    is_pinned is_shared is_nonzero_free .name ._version .retains_grad
""")
def _metadata(call: Call) -> Any:
    if is_tracing():
        # A tracer would record the soft value as a constant, and read it.
        return call.func(*map(blank, call.args), **call.kwargs)
    with without_torch_function():
        return call.func(*call.args, **call.kwargs)


@rule("backward grad requires_grad_ retain_grad register_hook")
def _differentiated(call: Call) -> Tensor | None:
    result = call.run(plain)
    return call.args[0] if call.name == "requires_grad_" else result


@rule("multinomial bernoulli poisson binomial normal _standard_gamma _sample_dirichlet")
def _sampled(call: Call) -> Tensor:
    """Draw from a distribution of averages, as of a site that relax does not see."""
    if softs_of_integers(call.operands):
        raise TypeError(refusal(call.sites, f"{call.name} with it"))
    return call.run(plain)


@rule("repr")
def _shown(call: Call) -> str:
    return repr(call.args[0])


@rule("format")
def _formatted(call: Call) -> str:
    return format(*call.args)


@rule("""
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_zeros new_ones new_empty new_full new_tensor
""")
def _made(call: Call) -> Tensor:
    if soft_leaves((call.args[1:], call.kwargs)):
        raise TypeError(refusal(call.sites, f"{call.name} of it"))
    return stand_in(call)


@rule("result_type is_tensor can_cast promote_types is_same_size")
def stand_in(call: Call) -> Any:
    """Run a function that reads no value on plain tensors of the same kind."""
    return call.run(blank)
