"""The packages are twins: the same names, signatures and summary lines."""

import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOSTS = ("pyro_concrete", "numpyro_concrete")

# What one twin has alone, and why.
ONLY_NUMPYRO = {
    "PrototypeMessenger": "Pyro asks the support of a site for its bijection",
    "OneHotCategorical": "Pyro has its own",
    "distributions/one_hot.py": "Pyro has its own",
    "distributions/batching.py": "torch batches by shapes alone",
    "Interpreter": "torch dispatches on the value itself",
    "soft_index/interpreter.py": "torch dispatches on the value itself",
    "soft_index/rules.py": "in Pyro each family has a file",
    "soft_index/axes.py": "in Pyro they are in reductions.py",
    "soft_index/counts.py": "in Pyro they are in folds.py",
    "soft_index/expectation.py": "in Pyro it is in algebra.py",
    "soft_index/single.py": "functions of torch have no bodies to run",
    "soft_index/sums.py": "in Pyro they are in folds.py",
    "SoftlyObserved": "in Pyro SoftParameters scores soft values, too",
    "log_prob_or_impossible": "in Pyro it is in supports.py",
    "within_bounds": "in Pyro a site does it",
    "soft_index/operators.py": "a soft tensor has the operators of tensors",
    "relaxation/control_flow.py": "torch has no loops of its own",
    "relaxation/minibatches.py": "Pyro records the rows of plates as sites",
    "soft_index/masks.py": "Pyro's own masked distribution takes soft masks",
    "soft_index/paths.py": "in Pyro these are in parameters.py",
    "soft_index/trace.py": "torch dispatches on the value itself",
    "soft_index/registry.py": "in Pyro it is in value.py",
    "soft_index/loops.py": "torch has no loops of its own",
    "soft_index/carries.py": "torch has no loops of its own",
    "soft_index/sequences.py": "torch has no loops of its own",
    "soft_index/draws.py": "in Pyro it is in elements.py",
    "soft_index/merging.py": "in Pyro it is in algebra.py",
    "soft_index/sharing.py": "in Pyro it is in elements.py",
    "soft_index/tables.py": "torch's tensors are always known",
    "SoftlyMasked": "Pyro's own masked distribution takes soft masks: MaskedSoftly",
    "States": "torch distributions broadcast, JAX ones are mapped over states",
    "averaged": "torch distributions broadcast, JAX ones are mapped over states",
    "RelaxedProgram": "Pyro's messengers make programs of functions",
    "DiscreteMessenger": "Pyro needs no interpreter to leave out",
    "keep_discrete": "in Pyro a method of RelaxMessenger",
    "ResolvedSchedule": "torch has no loops of its own, where a count cannot be read",
    "sum_by_element": "in Pyro, every dim of a batch has a plate",
    "resolve_schedules": "torch has no loops of its own, where a count cannot be read",
    "KeyMessenger": "Pyro draws subsamples by a handler, NumPyro by keys",
    "ParticleKeys": "Pyro draws subsamples by a handler, NumPyro by keys",
    "importance_traces": "Pyro draws subsamples by a handler, NumPyro by keys",
    "under_messenger": "Pyro's get_importance_trace takes its handlers around",
    "ContinuousMessenger": "Pyro's guides can be told what to hide",
    "deterministic_values": "Pyro's guides have no sample_posterior",
}
ONLY_PYRO = {
    "MaskedSoftly": "NumPyro's masks are none of tensors: SoftlyMasked",
    "masked": "NumPyro's masks are none of tensors",
    "with_soft_value": "NumPyro's interpreter scores soft observations",
    "finite_values": "Pyro's soft parameters ask for the support of the largest",
    "log_probs": "Pyro's soft parameters ask for scores outside of the support",
    "soft_index/abstract.py": "torch dispatches on classes of tensors",
    "soft_index/counting.py": "JAX counts by a few primitives, in rules.py",
    "soft_index/elements.py": "in NumPyro it is in draws.py",
    "soft_index/folds.py": "in NumPyro it is in sums.py",
    "soft_index/function_names.py": "JAX has a few primitives, in rules.py",
    "soft_index/joint.py": "in NumPyro it is in averages.py",
    "soft_index/losses.py": "JAX has no primitives for losses",
    "soft_index/metadata.py": "JAX reads shapes and types from abstract values",
    "soft_index/order.py": "JAX has a few primitives for order, in rules.py",
    "soft_index/products.py": "JAX has one primitive for products, in rules.py",
    "soft_index/refusals.py": "in NumPyro it is in value.py",
    "soft_index/selection.py": "JAX has one primitive for selection, in rules.py",
    "soft_index/states.py": "in NumPyro it is in rules.py",
    "soft_index/reductions.py": "JAX has a few primitives for sums, in rules.py",
    "soft_index/trees.py": "JAX traces a program once, at no cost in a step",
    "Deterministic": "NumPyro has messages of this type",
    "as_temperature": "JAX takes arrays of NumPy as they are",
    "resolve_soft_parameters": "in NumPyro with_known_parameters has the wrappers",
    "ReturnedValue": "NumPyro's messengers keep how values are received",
    "is_soft_parameter": "JAX finds them among the leaves of a distribution",
    "SubsampleMessenger": "NumPyro draws subsamples by keys",
    "all_sites": "NumPyro's traces are dicts of sites",
    "is_subsample": "NumPyro draws subsamples at plates, not at sites",
    "ProgramMessenger": "in NumPyro parameters are not a part of programs",
    "GradientMessenger": "JAX leaves out what is not used, such as a search for masks",
    "HandledModule": "in NumPyro parameters are not a part of programs",
    "preserved_params": "NumPyro's programs leave nothing behind",
    "objectives/discrete_draws.py": "XLA compiles the samplers of JAX",
    "SequentialPlateMessenger": "NumPyro has no sequential plates",
    "ops/fused.py": "XLA fuses by itself",
}
MODULES = [
    "",
    ".ops",
    ".distributions",
    ".soft_index",
    ".soft_index.parameters",
    ".relaxation.finite_support",
    ".relaxation",
    ".relaxation.checks",
    ".relaxation.handlers",
    ".relaxation.messages",
    ".relaxation.programs",
    ".relaxation.settings",
    ".relaxation.site",
    ".relaxation.surroundings",
    ".relaxation.wrappers",
    ".schedules",
    ".guides",
    ".guides.abstract",
    ".guides.auto_concrete",
    ".guides.masks",
    ".guides.posterior",
    ".guides.prototype",
    ".objectives.particles",
    ".objectives",
    ".objectives.traces",
    ".objectives.elbo_terms",
    ".objectives.learning_signals",
    ".objectives.logit_gradients",
    ".objectives.guide_draws",
    ".objectives.coupled_runs",
    ".objectives.local_expectations",
    ".diagnostics",
    ".citations",
    ".plots",
    ".diagnostics.gap",
    ".diagnostics.gradient_sampler",
    ".diagnostics.references",
    ".diagnostics.report",
    ".planning",
    ".planning.plan",
    ".planning.inspection",
]


def files(package):
    root = ROOT / package
    return {str(p.relative_to(root)) for p in root.rglob("*.py")}


def public(package, module):
    """Public names that a module defines or exports, and what they are."""
    found = importlib.import_module(package + module)
    names = getattr(found, "__all__", None)
    if names is None:
        own = inspect.getmembers(found, lambda x: inspect.isclass(x) or callable(x))
        names = [n for n, x in own if getattr(x, "__module__", "") == found.__name__]
    return {n: getattr(found, n) for n in names if not n.startswith("_")}


def pairs():
    for module in MODULES:
        ours = [public(package, module) for package in HOSTS]
        for name in sorted(ours[0].keys() & ours[1].keys()):
            both = [o[name] for o in ours]
            if all(inspect.isclass(x) or inspect.isfunction(x) for x in both):
                yield pytest.param(*both, id=f"{module[1:]}:{name}")


def parameters(x):
    """Names, kinds and defaults; `dim` and `axis` are one idiom."""
    known = inspect.signature(x).parameters.values()
    # A class on its metaclass or with tensors for values has no signature to compare.
    # NumPyro's objectives take a random key and the parameters, which Pyro stores, and
    # its guides a prefix for their names. Where values start is the host's default.
    host = {"self", "rng_key", "params", "prefix"}
    own = [p.replace(default=None) if p.name == "init_loc_fn" else p for p in known]
    return [(p.name, p.kind, p.default) for p in own if p.name not in host]


def test_files_are_the_same():
    pyro, numpyro = map(files, HOSTS)
    assert numpyro - pyro == {n for n in ONLY_NUMPYRO if n.endswith(".py")}
    assert pyro - numpyro == {n for n in ONLY_PYRO if n.endswith(".py")}


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m[1:] or "package")
def test_names_are_the_same(module):
    pyro, numpyro = (set(public(package, module)) for package in HOSTS)
    assert pyro - numpyro <= ONLY_PYRO.keys()
    assert numpyro - pyro <= ONLY_NUMPYRO.keys()


# Methods that implement a host's contract have the host's signature.
HOST_SIGNATURES = {
    "with_known_parameters",
    "LogRatioTransform",
    "SoftIndex",
    "SoftNumber",
    "SoftReal",
    "SoftParameters",
    "FiniteSupport",
    # Pyro keeps the masks of handlers in messages, NumPyro in distributions.
    "element_mask",
    # Pyro's handlers find what a statement returns in the record.
    "RelaxRecord",
    "ConfigMessenger",
    "RelaxMessenger",
    "HardenMessenger",
    "SurroundedMessenger",
    "TrainingMessenger",
    # Pyro runs a chunk at once, NumPyro maps over the keys of its particles.
    "Particles",
    "CountingOptim",
    # Pyro's ELBOs are told of plates, NumPyro's run with keys and parameters.
    "REBAR",
    "RLOO",
    "DisARM",
    "LocalExpectations",
    "IWAE",
    "CoupledRuns",
    "DrawMessenger",
    "ParticleNoise",
    "Relaxation",
}


def pytest_generate_tests(metafunc):
    if {"ours", "theirs"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("ours", "theirs"), list(pairs()))


def test_signatures_are_the_same(ours, theirs):
    if ours.__name__ in HOST_SIGNATURES:
        assert ours.__name__ == theirs.__name__
        return
    assert parameters(ours) == parameters(theirs)


def test_summary_lines_are_the_same(ours, theirs):
    summaries = [inspect.getdoc(x).splitlines()[0] for x in (ours, theirs)]
    # The frameworks' own words for one thing.
    words = {"tensor": "array", " dim": " axis"}
    for torch, jax in words.items():
        summaries[0] = summaries[0].replace(torch, jax)
    summaries[1] = summaries[1].replace("NumPyro", "Pyro")
    for own in (", at the boundary of the program", ", with its wrappers"):
        summaries[1] = summaries[1].replace(own, "")
    assert summaries[0].replace(", without wrappers", "") == summaries[1]


def test_public_methods_are_the_same(ours, theirs):
    if not inspect.isclass(ours) or ours.__name__ in HOST_SIGNATURES:
        assert inspect.isclass(ours) == inspect.isclass(theirs)
        return
    methods = [
        {n for n, _ in vars(c).items() if not n.startswith("_")} for c in (ours, theirs)
    ]
    # What the hosts' base classes ask for by another name.
    host = {"rsample", "sample", "sample_with_intermediates", "has_rsample", "apply"}
    host |= {"reparametrized_params", "pytree_data_fields", "bijective"}
    host |= {"loss", "differentiable_loss", "loss_and_grads", "can_infer_discrete"}
    host |= {"forward", "sample_posterior", "pytree_aux_fields"}
    # Samplers ask Pyro's distributions for a support, and NumPyro's models for values.
    host |= {"support", "needs_density"}
    # A number in Pyro until it is asked for, a field in NumPyro.
    host |= {"temperature"}
    # NumPyro's Bernoulli has a wrong gradient at log-odds of zero.
    host |= {"sites_at_zero_odds"}
    assert methods[0] - host == methods[1] - host


@pytest.mark.parametrize("package", HOSTS)
def test_every_module_names_its_counterpart(package):
    for path in (ROOT / package).rglob("*.py"):
        assert "Counterpart:" in path.read_text().split('"""')[1], path
