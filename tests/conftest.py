"""Fixtures of the one suite: the backend, the device, a fresh seed for each test."""

import random
import re
import sys

import numpy as np
import pytest

BACKENDS = ("pyro", "numpyro")
DEVICES = ("cpu", "cuda")


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        choices=(*DEVICES, "all"),
        default="all",
        help="run the tests that take a device on this one only",
    )
    parser.addoption(
        "--backend",
        choices=(*BACKENDS, "all"),
        default="all",
        help="leave out the tests that are about the other backend alone",
    )
    parser.addoption(
        "--report",
        metavar="FILE",
        help="write what came of the tests, on what machine, to this file",
    )


def pytest_configure(config):
    path = config.getoption("--report")
    # A worker of xdist sends its outcomes to the process that distributes the tests.
    if path and not hasattr(config, "workerinput"):
        from gpu_report import Recorder

        recorder = Recorder(path, config.getoption("--device"))
        config.pluginmanager.register(recorder, "gpu_report")


# Tests whose half for NumPyro takes long, for JAX compiles, or runs op by op under the
# type checks. The other half is among the fast tests, and both among the slow ones.
SLOW_ON_NUMPYRO = (
    "test_guides.py::test_at_a_point_the_mixed_elbo_and_its_gradient_are_exact",
    "test_guides.py::test_logits_start_at_what_init_loc_fn_gives",
    "test_guides.py::test_medians_and_quantiles_are_those_of_the_values",
    "test_guides.py::test_a_global_site_over_a_subsampled_plate_trains",
    "test_gradient_report.py::test_cosines_are_to_the_reference",
    "test_gradient_report.py::test_it_warns_of_functions_that_are_steep_at_one_hot_samples",
    "test_objectives.py::test_chunks_give_the_bound_of_all_at_once",
    "test_objectives.py::test_progress_is_shown_if_asked_for",
    "test_native_relaxations.py::test_the_discrete_elbo_is_that_of_the_discrete_guide",
    "test_predictions.py::test_sites_of_every_kind",
    "test_local_expectations.py::test_a_hardened_guide_is_trained",
    "test_local_expectations.py::test_vectorized_runs_have_the_same_gradients",
    "test_kl.py::test_derivatives_equal_differences_of_the_oracle",
    "test_kl.py::test_equal_temperatures_keep_their_digits",
    "test_kl.py::test_kl_equals_quadrature",
    "test_kl.py::test_kl_of_neighbours_keeps_its_digits",
    "test_kl.py::test_ratios_out_of_reach_are_nan",
    "test_kl.py::test_single_precision",
    "test_kl.py::test_temperatures_broadcast",
    "test_kl.py::test_value_and_gradients_are_finite_far_apart",
    "test_ops.py::test_kl_",
    "test_class_probabilities.py::test_they_are_the_exact_ones",
    "test_diagnostics.py::test_all_numbers_are_of_one_subsample",
    "test_diagnostics.py::test_it_prints_as_two_tables_and_says_what_not_to_compare",
    "test_diagnostics.py::test_equal_programs_have_no_gap",
    "test_diagnostics.py::test_one_site_has_the_elbos_in_closed_form",
    "test_diagnostics.py::test_softness_is_the_entropy_of_the_points",
    "test_diagnostics.py::test_the_posterior_s_elbo_and_bound_are_the_evidence",
    "test_distributions.py::test_kl_of_two_learned_temperatures_has_their_gradients",
    "test_estimators.py::test_harden_and_autoconcrete_draw_the_discrete_sites",
    "test_diagnostics.py::test_the_entropy_is_that_of_the_discrete_distribution",
    "test_estimators.py::test_starting_at_init_loc_fn_needs_soft_points",
    "test_estimators.py::test_the_elbo_of_hard_draws_is_the_discrete_one",
    "test_estimators.py::test_the_program_sees_hard_values",
    "test_estimators.py::test_training_warns_of_nothing_and_moves_every_site",
    "test_families.py::test_an_unbounded_family_is_truncated",
    "test_gpu_agrees.py::test_what_is_compared_is_finite",
    "test_gradient_report.py::test_it_tells_a_bias_from_noise",
    "test_gradient_report.py::test_means_are_the_exact_expectations",
    "test_gradient_report.py::test_without_enumeration_it_is_a_long_run",
    "test_gradient_report.py::test_a_long_run_can_be_asked_for",
    "test_gradient_report.py::test_arrays_have_a_row",
    "test_gradient_report.py::test_enumeration_is_the_exact_gradient",
    "test_guides.py::test_a_guide_for_other_classes_is_an_error",
    "test_guides.py::test_it_is_a_part_of_a_list_of_guides",
    "test_guides.py::test_logits_start_where_they_are_told_to",
    "test_guides.py::test_rows_are_those_of_create_plates",
    "test_guides.py::test_a_subsampled_plate_has_parameters_of_its_full_size",
    "test_guides.py::test_enumerated_sites_are_inferred_after_training",
    "test_guides.py::test_it_trains_and_hardens_to_the_discrete_guide",
    "test_guides.py::test_logits_start_at_the_prior_s",
    "test_guides.py::test_logits_that_do_not_fit_are_refused",
    "test_guides.py::test_sites_in_nested_plates_have_parameters_for_each_element",
    "test_guide_sites.py::test_a_learned_temperature_has_a_gradient",
    "test_guide_sites.py::test_the_discrete_elbo_is_the_enumerated_one",
    "test_guide_sites.py::test_sites_with_one_value_are_in_the_guide_once",
    "test_masks.py::test_a_flat_prior_is_one_beside_a_masked_site",
    "test_masks.py::test_a_padded_chain_has_the_enumerated_elbo_and_evidence",
    "test_masks.py::test_bounds_of_the_posterior_are_the_evidence_under_every_mask",
    "test_masks.py::test_continuous_sites_are_masked_as_well",
    "test_masks.py::test_what_is_masked_has_the_values_of_the_model",
    "test_kl.py::test_mean_field_elbo_has_no_noise_at_unequal_temperatures",
    "test_objectives.py::test_a_subsample_is_one_for_all_particles_and_scaled",
    "test_objectives.py::test_on_the_same_draws_it_is_the_host_s",
    "test_objectives.py::test_sites_with_axes_of_their_own_are_summed_over_them",
    "test_paper.py::test_floor_of_the_kl_at_equal_logits",
    "test_planning.py::test_a_large_factorial_chain_is_planned_by_chains",
    "test_models_of_users.py::test_a_step_of_svi_is_finite_and_warns_of_nothing",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        name, _, case = item.nodeid.partition("[")
        slow = name.rpartition("/")[2].startswith(SLOW_ON_NUMPYRO)
        if slow and case.startswith("numpyro"):
            item.add_marker(pytest.mark.slow)
    chosen = config.getoption("--backend")
    if chosen != "all":
        others = [item for item in items if not _concerns(item.nodeid, chosen)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _concerns(item.nodeid, chosen)]


def _concerns(nodeid, backend):
    """Whether the name of a test, or of its module, names this backend or none."""
    named = set(re.findall(r"(?:num)?pyro", nodeid))
    return not named or backend in named


def pytest_generate_tests(metafunc):
    if "device" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--device")
    devices = DEVICES if chosen == "all" else (chosen,)
    marks = {"cpu": (), "cuda": (pytest.mark.gpu,)}
    params = [pytest.param(device, marks=marks[device]) for device in devices]
    metafunc.parametrize("device", params, indirect=True)


@pytest.fixture
def device(request):
    """A device on which the test runs, or a skip that says what is missing."""
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request):
    """One host with our package for it: see backends.py."""
    request.node.user_properties.append(("backend", request.param))
    chosen = _backend_or_skip(request)
    if "device" in request.fixturenames:
        device = request.getfixturevalue("device")
        if not chosen.has_device(device):
            pytest.skip(f"{request.param} sees no {device} device on this machine")
        with chosen.on(device):
            yield chosen
    else:
        yield chosen


def _backend_or_skip(request):
    """The backend; on a GPU the tests of a host that is not installed are skipped."""
    # The packages are imported here and not above, or the type checks of the
    # jaxtyping hook would miss them.
    from backends import get_backend

    try:
        return get_backend(request.param)
    except ModuleNotFoundError as error:
        if request.config.getoption("--device") != "cuda":
            raise
        return pytest.skip(f"{request.param} is not installed: {error}")


@pytest.fixture(autouse=True)
def funsor_computes_with_jax():
    """Undo what an import of pyro.contrib does to NumPyro's enumeration."""
    if "numpyro.contrib.funsor" in sys.modules:
        sys.modules["funsor"].set_backend("jax")


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (hosts and scipy read the global state)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def rng():
    """A seeded generator for tests without a host."""
    return np.random.default_rng(20161102)
