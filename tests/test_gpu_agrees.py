"""CPU and GPU compute the same numbers from the same noise, up to rounding."""

import numpy as np
import pytest
from asserts import assert_exact, assert_finite
from backends import get_backend
from cases import all_cases
from reference import concrete
from scipy.special import expit, softmax

T = np.array([0.3, 1.7])
LOGITS = np.array([[0.7, -0.3, 0.1], [1.5, 0.0, -2.0]])
OTHER = np.array([[-0.2, 0.4, 0.0], [0.3, -0.9, 1.1]])
_RNG = np.random.default_rng(7)
GUMBEL, LOGISTIC = _RNG.gumbel(size=(4, 2, 3)), _RNG.logistic(size=(4, 2))
UNIFORM = _RNG.uniform(0.01, 0.99, size=(4, 2))
POINTS = concrete.exp_concrete_sample(GUMBEL, T, LOGITS)
VERTICES = np.eye(3)[POINTS.argmax(-1)]

# name in ops: arguments; arrays are differentiated in, if the result depends on them
OPS = {
    "bernoulli_logits": (UNIFORM,),
    "binary_concrete_log_density": (UNIFORM, T, LOGITS[:, 0]),
    "categorical_logits": (softmax(LOGITS, -1),),
    "concrete_log_density": (np.exp(POINTS), T, LOGITS),
    "conditional_gumbel": (GUMBEL, VERTICES, LOGITS),
    "conditional_logistic": (LOGISTIC, np.round(UNIFORM), LOGITS[:, 0]),
    "exp_concrete": (GUMBEL, T, LOGITS),
    "exp_concrete_entropy": (T, 3),
    "exp_concrete_kl": (LOGITS, OTHER),
    "exp_concrete_log_density": (POINTS, T, LOGITS),
    "exp_concrete_log_mass": (POINTS, LOGITS),
    "exp_concrete_noise_log_density": (GUMBEL, T),
    "from_log_ratios": (LOGITS,),
    "gumbel": (UNIFORM,),
    "gumbel_rao": (GUMBEL, T, LOGITS),
    "gumbel_rao_binary": (LOGISTIC, T, LOGITS[:, 0]),
    "log_ratios": (POINTS,),
    "logistic": (UNIFORM,),
    "logit_binary_concrete": (LOGISTIC, T, LOGITS[:, 0]),
    "logit_binary_concrete_entropy": (T,),
    "logit_binary_concrete_kl": (LOGITS[:, 0], OTHER[:, 0]),
    "logit_binary_concrete_log_density": (LOGISTIC, T, LOGITS[:, 0]),
    "logit_binary_concrete_log_mass": (LOGISTIC, LOGITS[:, 0]),
    "logit_binary_concrete_noise_log_density": (LOGISTIC, T),
    "reinmax": (GUMBEL, T, LOGITS),
    "reinmax_binary": (LOGISTIC, T, LOGITS[:, 0]),
    "straight_through": (np.exp(POINTS),),
    "straight_through_binary": (expit(LOGISTIC),),
    "clamp_probs": (UNIFORM,),
    "promote_half": (LOGITS,),
}

ops = pytest.mark.parametrize("name", OPS)
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


@pytest.fixture
def gpu(backend, request):
    """The backend of a test that needs both devices, or a skip that says why not."""
    if request.config.getoption("--device") == "cpu":
        pytest.skip("a comparison with the GPU is not for --device cpu")
    if not backend.has_device("cuda"):
        pytest.skip(f"{backend.name} sees no cuda device on this machine")
    return backend


def with_gradients(backend, device, function, arrays, dtype):
    """The value of a function of arrays on a device, and its gradients in them."""
    with backend.on(device):
        given = [backend.array(x, dtype) for x in arrays]
        value = function(*given)
        weight = np.cos(np.arange(np.size(backend.numpy(value))))
        weight = backend.array(weight.reshape(value.shape), dtype)
        total = lambda *x: (function(*x) * weight).sum()  # noqa: E731
        found = [value, *backend.gradients(total, *given)]
        return [backend.numpy(x) for x in found]


def of_op(backend, device, name, dtype):
    arrays = [x for x in OPS[name] if isinstance(x, np.ndarray)]
    rest = [x for x in OPS[name] if not isinstance(x, np.ndarray)]
    op = getattr(backend.ops, name)
    return with_gradients(backend, device, lambda *x: op(*x, *rest), arrays, dtype)


def of_case(backend, device, case, dtype):
    family = getattr(backend.distributions, case.name)

    def log_density(value, temperature, logits):
        return family(temperature, logits=logits).log_prob(value)

    arrays = case.interior(), T, case.array
    return with_gradients(backend, device, log_density, arrays, dtype)


def assert_agree(found, expected, dtype):
    for a, b in zip(found, expected, strict=True):
        assert_exact(a, b, dtype, scale=np.abs(b).max())


@pytest.mark.gpu
@ops
@dtypes
def test_an_op_is_the_same_on_the_gpu(gpu, name, dtype):
    found, expected = (of_op(gpu, device, name, dtype) for device in ("cuda", "cpu"))
    assert_agree(found, expected, dtype)


@pytest.mark.gpu
@all_cases
@dtypes
def test_a_log_density_is_the_same_on_the_gpu(gpu, case, dtype):
    found, expected = (of_case(gpu, device, case, dtype) for device in ("cuda", "cpu"))
    assert_agree(found, expected, dtype)


# --- what is compared, as far as the CPU can tell


def test_every_op_is_compared(backend):
    assert {*backend.ops.__all__} - {"MAX_RATIO"} == {*OPS}


@pytest.mark.slow_on("numpyro")
@ops
def test_what_is_compared_is_finite(backend, name):
    value, *slopes = of_op(backend, "cpu", name, "float64")
    for x in (value, *slopes):
        assert_finite(x, name)
    assert any(x.any() for x in slopes)


@all_cases
def test_densities_that_are_compared_are_finite(backend, case):
    for x in of_case(backend, "cpu", case, "float64"):
        assert_finite(x, case.name)
        assert x.any()


# --- precision of products


def products_of(jaxpr):
    """The products of matrices in a program, and in the programs that it calls."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        for inner in map(_inner, eqn.params.values()):
            if inner is not None:
                yield from products_of(inner)


def _inner(parameter):
    if hasattr(parameter, "eqns"):
        return parameter
    return getattr(parameter, "jaxpr", None)


UNEQUAL = {
    "exp_concrete_kl": (LOGITS, OTHER, T, T[::-1]),
    "logit_binary_concrete_kl": (LOGITS[:, 0], OTHER[:, 0], T, T[::-1]),
}


@pytest.mark.parametrize(("name", "arguments"), [*OPS.items(), *UNEQUAL.items()])
def test_no_product_of_an_op_is_rounded_by_the_device(name, arguments):
    """On a GPU, JAX rounds the factors of a float32 product unless told otherwise."""
    backend = get_backend("numpyro")
    jax, op = backend.jax, getattr(backend.ops, name)
    arrays = [backend.array(x, "float32") for x in arguments if np.ndim(x)]
    rest = [x for x in arguments if not np.ndim(x)]
    total = lambda *arrays: op(*arrays, *rest).sum()  # noqa: E731
    gradient = jax.value_and_grad(total, argnums=tuple(range(len(arrays))))
    found = [*products_of(jax.make_jaxpr(gradient)(*arrays).jaxpr)]
    assert found or name != "exp_concrete_kl"
    for product in found:
        assert {*product.params["precision"]} == {jax.lax.Precision.HIGHEST}
