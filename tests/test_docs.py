"""The examples in docstrings, README and pages run and print what they state."""

import csv
import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pages
import pytest
from scipy import optimize, special, stats

ROOT = Path(__file__).parent.parent
PACKAGES = ("pyro_concrete", "numpyro_concrete")
GRIDS = {"how_often_finite": 280, "how_often_finite_in_half_precision": 160}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules(package):
    found = importlib.import_module(package)
    names = [m.name for m in pkgutil.walk_packages(found.__path__, f"{package}.")]
    return [found, *map(importlib.import_module, names)]


def examples(package):
    """The docstring examples of a package, one for each object that has any."""
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=True)
    if package == "pyro_concrete":
        import torch

        names = {"torch": torch}
    elif package == "concrete_core":
        names = {}
    else:
        import jax
        import jax.numpy as jnp
        import quax

        names = {"jax": jax, "jnp": jnp, "quax": quax}
    for module in modules(package):
        globs = {**names, **vars(module)}
        yield from (t for t in finder.find(module, globs=globs) if t.examples)


@pytest.mark.parametrize(
    "package",
    # JAX compiles each example; `make docs` runs both.
    ["concrete_core", PACKAGES[0], pytest.param(PACKAGES[1], marks=pytest.mark.slow)],
)
def test_docstring_examples_run(package):
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    reports = []
    count = 0
    for test in examples(package):
        count += 1
        runner.run(test, out=reports.append)
    assert runner.failures == 0, "".join(reports)
    assert count >= (5 if package == "concrete_core" else 25)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_functions_and_classes_have_examples(package):
    tested = {test.name for test in examples(package)}
    for module in modules(package):
        for name in getattr(module, "__all__", ()):
            x = getattr(module, name)
            if name.startswith(("__", "Abstract")) or not callable(x):
                continue
            if not (inspect.isclass(x) or inspect.isfunction(x)):
                continue
            if not x.__module__.startswith(package):
                continue  # not ours
            if name == "promote_half":
                continue  # a helper of both packages, one line
            assert f"{x.__module__}.{x.__qualname__}" in tested, (module.__name__, name)


def readme_blocks():
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_readme_has_an_example_for_each_backend():
    blocks = readme_blocks()
    assert any("import pyro\n" in b for b in blocks)
    assert any("import numpyro\n" in b for b in blocks)


# Between what a seed printed where the README was written, and what it prints here: one
# point in the wrong class, of five in a hundred particles, costs from 0.29 to 0.34.
TOLERANCE = 0.35


def stated(block):
    """What an example says that it prints: the comments behind its prints."""
    return re.findall(r"^print\(.*\n# (.*)$", block, flags=re.MULTILINE)


@pytest.mark.parametrize("block", readme_blocks(), ids=PACKAGES)
def test_readme_examples_print_what_they_say(block):
    command = [sys.executable, "-W", "error", "-c", block]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr[-2000:]
    printed = result.stdout.splitlines()
    assert len(printed) == len(stated(block)) > 0
    for found, expected in zip(printed, stated(block), strict=True):
        if expected.startswith("discrete ELBO "):
            elbos = [float(line.split()[-1]) for line in (found, expected)]
            assert abs(elbos[0] - elbos[1]) < TOLERANCE
        else:
            assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("block", readme_blocks(), ids=PACKAGES)
def test_readme_examples_end_near_the_optimum_from_ten_seeds(block):
    first, best = "(0)", -4.78
    assert block.count(f"set_rng_seed{first}") + block.count(f"key{first}") == 1
    for seed in range(10):
        seeded = block.replace(f"set_rng_seed{first}", f"set_rng_seed({seed})")
        seeded = seeded.replace(f"key{first}", f"key({seed})")
        command = [sys.executable, "-c", seeded]
        output = subprocess.check_output(command, text=True, cwd=ROOT)
        assert float(output.split()[-1]) > best - 0.5


# --- the optimum that the README states

DATA = np.array([-2.1, -1.8, 1.9, 2.2, 2.0])  # of both examples of the README


def log_joint(loc):
    """Log-probabilities of each point with each class, in the README's mixture."""
    return np.log(0.5) + stats.norm.logpdf(DATA[:, None], loc, 0.5)


def log_evidence(loc):
    """The log-evidence, summed over the 2^5 assignments of points to classes."""
    points = np.arange(len(DATA))
    assignments = itertools.product(range(2), repeat=len(DATA))
    return special.logsumexp([log_joint(loc)[points, z].sum() for z in assignments])


def discrete_elbo(loc, logits):
    log_q = special.log_softmax(logits, -1)
    return (np.exp(log_q) * (log_joint(loc) - log_q)).sum()


def test_the_readme_states_the_best_discrete_elbo():
    start = np.array([-1.0, 1.0])
    best = optimize.minimize(lambda loc: -log_evidence(loc), start)
    logits = optimize.minimize(
        lambda x: -discrete_elbo(best.x, x.reshape(5, 2)), np.zeros(10)
    )
    # The guide can be the exact posterior, so that the best ELBO is the log-evidence.
    assert np.isclose(-logits.fun, -best.fun, atol=1e-4)
    readme = (ROOT / "README.md").read_text()
    assert f"{-best.fun:.2f}" == "-4.78"
    assert "is -4.78" in readme
    assert "is -4.78" in (ROOT / "docs" / "index.md").read_text()
    # No bound exceeds what it bounds, but for the noise of its estimate.
    elbos = [float(x) for b in readme_blocks() for x in re.findall(r"ELBO (-\S+)", b)]
    assert len(elbos) == len(readme_blocks())
    for elbo in elbos:
        assert -best.fun - 0.5 < elbo < -best.fun + 0.01


def committed(name):
    """The rows of a committed result of the benchmarks."""
    lines = (ROOT / "benchmarks" / "results" / f"{name}.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("grid", GRIDS)
def test_committed_results_have_no_failed_cell_of_ours(package, grid):
    rows = committed(f"{grid}_{package.removesuffix('_concrete')}")
    ours = [r for r in rows if r["variable"] in OURS]
    assert {r["variable"] for r in ours} == OURS
    assert sum(int(r["failed"]) for r in ours) == 0
    cells = sum(int(r["cells"]) for r in ours)
    assert cells == 2 * GRIDS[grid]  # directly and through relax


OURS = {
    "ExpConcrete",
    "LogitBinaryConcrete",
    "relax(Bernoulli)",
    "relax(OneHotCategorical)",
}


def benchmarks_page():
    return (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_benchmarks_page_quotes_the_committed_figures():
    page = benchmarks_page()
    for backend_name in ("pyro", "numpyro"):
        rows = committed(f"relaxed_kl_of_one_site_{backend_name}")
        for site in ("RelaxedBernoulli", "relax(Bernoulli)"):
            (row,) = (
                r
                for r in rows
                if (r["site"], r["elbo"], r["temperature"])
                == (site, "Trace_ELBO", "0.01")
            )
            mean, error = float(row["kl"]), float(row["standard_error"])
            assert f"{mean:.4f} ± {error:.4f}" in page
    rows = committed("how_often_finite_pyro")
    of_pyro = {"RelaxedOneHotCategorical", "RelaxedBernoulli"}
    failed = sum(int(r["failed"]) for r in rows if r["variable"] in of_pyro)
    assert f"{failed} of 280" in page


@pytest.mark.parametrize("backend_name", ["pyro", "numpyro"])
def test_the_benchmarks_page_quotes_the_committed_ratios(backend_name):
    page = benchmarks_page()
    for over in ("by_hand", "plain"):
        found = [
            row["ratio"]
            for row in committed(f"cost_of_step_{backend_name}")
            if (row["step"], row["over"]) == ("relax", over)
        ]
        assert f"| {', '.join(found)} |" in page
    assert f"| {committed(f'cost_of_relax_{backend_name}')[-1]['ratio']} |" in page
    (*_, mean) = committed(f"cost_of_term_{backend_name}")
    assert f"| {mean['by_hand']} |" in page
    if backend_name == "pyro":
        assert f"(`cost_of_term`) | {mean['torch']} | |" in page
        models = committed("cost_of_relax_pyro")
        assert f"is {max(row['ratio'] for row in models)}," in page


@pytest.mark.parametrize("backend_name", ["pyro", "numpyro"])
@pytest.mark.parametrize("estimator", ["concrete", "score"])
def test_the_benchmarks_page_quotes_the_steps_of_iwae(backend_name, estimator):
    found = [
        row["ratio"]
        for row in committed(f"cost_of_iwae_{backend_name}")
        if (row["estimator"], row["step"]) == (estimator, "IWAE")
    ]
    assert f"| {', '.join(found)} |" in benchmarks_page()


def test_the_benchmarks_page_says_what_iwae_adds():
    rows = committed("cost_of_iwae_pyro")
    *first, last = [row["ratio"] for row in rows if row["step"] == "elbo"]
    page = " ".join(benchmarks_page().split())
    assert f"the ratios are {', '.join(first)} and {last}." in page


def test_the_benchmarks_page_quotes_the_committed_causes():
    page = benchmarks_page()
    found = [
        row["ratio"]
        for row in committed("cost_of_step_pyro")
        if (row["step"], row["over"]) == ("by_hand", "plain")
    ]
    assert f"{' and '.join(found)} times as long" in " ".join(page.split())
    compiled = [
        row["ratio"]
        for row in committed("cost_of_step_pyro")
        if (row["step"], row["over"]) == ("relax_compiled", "relax")
    ]
    assert f"{' and '.join(compiled)} times as long as the uncompiled" in page
    shares = [x for x in committed("where_time_goes_pyro") if x["way"] == "relax"]
    for part, words in (
        ("pyro", "{} % and {} % of a relaxed step"),
        ("pyro_concrete", "this library's code {} % and {} %"),
    ):
        percent = [round(100 * float(x[part])) for x in shares]
        assert words.format(*percent) in " ".join(page.split())


def step_ratios(backend_name):
    """Committed runtimes of a relaxed step, relative to a manually relaxed one."""
    steps = committed(f"cost_of_step_{backend_name}")
    ratios = [
        float(row["ratio"])
        for row in steps
        if (row["step"], row["over"]) == ("relax", "by_hand")
    ]
    median_of_models = committed(f"cost_of_relax_{backend_name}")[-1]["ratio"]
    return [*ratios, float(median_of_models)]


def test_the_readme_quotes_the_committed_overhead():
    readme = (ROOT / "README.md").read_text()
    numpyro = [f"{ratio:.1f}" for ratio in sorted(step_ratios("numpyro"))]
    pyro = [f"{ratio:.1f}" for ratio in sorted(step_ratios("pyro"))]
    assert f"takes {numpyro[0]} to {numpyro[-1]} (NumPyro)" in readme
    assert f"{pyro[0]} to {pyro[-1]} (Pyro) times as long" in readme


def test_the_page_on_gpus_states_the_card_and_the_versions():
    page = " ".join((ROOT / "docs" / "gpu.md").read_text().split())
    results = [*(ROOT / "benchmarks" / "results").glob("*_gpu.csv")]
    assert len(results) == 4
    for path in results:
        lines = path.read_text().splitlines()
        facts = dict(x[2:].split(": ") for x in lines if x.startswith("# "))
        assert facts["device"] == "NVIDIA H100 80GB HBM3"
        for name in ("torch", "pyro-ppl", "jax", "numpyro"):
            assert name not in facts or f"{name} {facts[name]}" in page
    report = (ROOT / "benchmarks" / "results" / "gpu_models.md").read_text()
    assert "1 of 135 tests" in report
    assert "134 of 135 tests passed" in page
    report = (ROOT / "benchmarks" / "results" / "gpu_tests.md").read_text()
    assert "NVIDIA H200" in report
    assert "| jax | 0.11.2 |" in report
    counts = re.findall(r"\| (?:num)?pyro \| (\d+) \| 0 \|", report)
    assert f"{sum(map(int, counts))} of the 756 tests" in page
    earlier = (
        ROOT / "benchmarks" / "results" / "gpu_tests_numpyro_0_21.md"
    ).read_text()
    assert "FAILED: 20 of 695 tests" in earlier
    assert "an earlier run of 695 tests with NumPyro 0.21.0, 20 failed" in page


# The paper's Concrete with m = 1.
_CONDITIONAL = {"392V-240H-240H-392V": 58.5, "392V-240H-240H-240H-392V": 56.3}


def test_the_page_on_the_paper_says_what_the_cells_show():
    path = ROOT / "benchmarks/results/paper/cells_numpyro.csv"
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["bound"] == "test"]

    def bound(network, estimator, m, particles="5000", steps=None):
        cell = network, estimator, m, particles
        names = "network", "estimator", "particles", "evaluated particles"
        found = [x for x in rows if tuple(x[n] for n in names) == cell]
        steps = steps or max(int(x["steps"]) for x in found)
        found = [x for x in found if int(x["steps"]) == steps]
        nats = [-float(x["nats"]) for x in found]
        assert max(nats) - min(nats) <= 0.3
        return fmean(nats)

    linear, one, two = "200H-784V", "200H~784V", "200H~200H~784V"
    deep = "200H-200H-784V"
    assert abs(bound(linear, "concrete", "1") - 107.3) < 0.1
    assert abs(bound(deep, "discrete", "1") - 102.1) < 0.1
    assert round(bound(two, "discrete", "1") - 87.9, 1) == 1.0
    assert round(bound(one, "discrete", "1") - 92.1, 1) == 2.3
    gain = bound(one, "discrete", "1", steps=125_000) - bound(one, "discrete", "1")
    assert round(gain, 1) == 2.1
    for network, published in _CONDITIONAL.items():
        assert abs(bound(network, "concrete", "1", "100") - published) < 0.5
    gains = [  # of discrete scoring
        bound(net, "concrete", "1") - bound(net, "discrete", "1")
        for net in (linear, deep, two)
    ]
    assert [round(x, 1) for x in gains] == [-1.9, 1.1, 1.6]
    assert abs(bound(one, "discrete", "1") - bound(one, "concrete", "1")) < 0.2
    page = (ROOT / "docs" / "paper.md").read_text()
    cells = re.findall(
        r"\| `(.+)` \| (\d+) \| ([\d,]+) \| (\w+) \| ([\d.]+) \| (\w+) \| ([\d.]+) \|",
        page,
    )
    trained = {
        (row["network"], row["particles"])
        for row in rows
        if row["estimator"] == "score" and row["arity"] == "2"
    }
    assert {cell[:2] for cell in cells} == trained
    for network, m, steps, ahead, nats, ahead_in_paper, nats_in_paper in cells:
        particles = "100" if network in _CONDITIONAL else "5000"
        score, concrete = (
            bound(network, x, m, particles) for x in ("score", "concrete")
        )
        alternative = "NVIL" if m == "1" else "VIMCO"
        assert ahead == ("Concrete" if concrete < score else alternative)
        assert nats == f"{abs(score - concrete):.1f}"
        found = [x for x in rows if (x["network"], x["particles"]) == (network, m)]
        found = [x for x in found if x["estimator"] != "discrete"]
        assert {x["steps"] for x in found} == {steps.replace(",", "")}
        of_paper = [float(found[0][f"paper {x}"]) for x in ("vimco", "concrete")]
        gap = of_paper[1] - of_paper[0]
        assert ahead_in_paper == ("Concrete" if gap > 0 else alternative)
        assert nats_in_paper == f"{abs(gap):.1f}"
    concrete, discrete = (bound(one, x, "50") for x in ("concrete", "discrete"))
    assert round(discrete - concrete, 1) == 0.4
    assert round(bound(one, "discrete", "1") - discrete, 1) == 1.2
    assert round(bound(one, "concrete", "1") - concrete, 1) == 1.7
    conditional = "392V-240H-240H-392V"
    five = bound(conditional, "concrete", "5", "100")
    assert round(bound(conditional, "concrete", "1", "100") - five, 1) == 4.0
    assert abs(five - 54.3) < 0.1
    by_elbo = [
        bound(net, "concrete", "1", "1") - bound(net, "discrete", "1", "1")
        for net in (linear, deep, two, one)
    ]
    assert min(by_elbo) > 3.5
    assert max(by_elbo) < 9.5


def test_the_page_on_when_to_relax_says_what_the_gallery_found():
    path = ROOT / "benchmarks/gallery/results/models_evaluations_numpyro.csv"
    lines = [x for x in path.read_text().splitlines() if not x.startswith("#")]
    elbos = {row.pop("model"): row for row in csv.DictReader(lines)}

    def elbo(model, method):
        return float(elbos[model][method].split()[0])

    for network in ("sigmoid belief net, digits", "categorical autoencoder, digits"):
        relaxed, score = elbo(network, "discrete 0.2"), elbo(network, "TraceGraph_ELBO")
        assert relaxed - score > 1000
    for model in ("hidden Markov model", "zero-inflated counts", "capture-recapture"):
        assert elbo(model, "TraceGraph_ELBO") > elbo(model, "discrete 0.2")
    for model in ("iris mixture", "zero-inflated counts"):
        finished = elbo(model, "discrete 0.2, then local")
        assert abs(finished - elbo(model, "enumeration")) < 0.2


# --- the pages of the documentation

# JAX compiles each training, so that NumPyro's are slow; `make docs` runs both.
PAGES = ("citing", "gpu", "guides", "how_to", "troubleshooting")


def page_text(page):
    return (pages.DOCS / f"{page}.md").read_text()


@pytest.mark.slow_on("numpyro")
@pytest.mark.parametrize(
    ("backend_name", "page"),
    [(name, page) for name in pages.BACKENDS for page in PAGES],
)
def test_snippets_of_a_page_print_what_they_say(backend_name, page, tmp_path):
    snippets = pages.snippets(page_text(page), backend_name)
    printed = pages.run(snippets, tmp_path)
    assert len(printed) == len(snippets) > 0
    for snippet, output in zip(snippets, printed, strict=True):
        if page == "citing":  # shows no output; test_documentation_site.py compares it
            continue
        assert not snippet.num_unstated_prints, snippet.code
        message = f"{snippet.code}\n--- prints ---\n{output}"
        assert pages.agree(output, snippet.stated_output), message


def test_every_page_with_snippets_is_run():
    with_snippets = {
        path.stem
        for path in pages.DOCS.rglob("*.md")
        if "_made" not in path.parts and "```python" in path.read_text()
    }
    assert with_snippets == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_as_many_snippets_for_each_backend(page):
    pyro, numpyro = (pages.snippets(page_text(page), x) for x in pages.BACKENDS)
    assert len(pyro) == len(numpyro)
    assert len(pyro) + len(numpyro) >= page_text(page).count("```python")


def test_a_snippet_states_the_output_of_its_prints():
    code = "for i in [0, 1]:\n    print(i)\n    # 0\n    # 1\nprint('a',\n 2)\n# a 2\n"
    snippet = pages.Snippet(code, ("pyro",))
    assert snippet.stated_output == "0\n1\na 2"
    assert snippet.num_unstated_prints == 0
    assert pages.Snippet("print(1)\nx = 2", ("pyro",)).num_unstated_prints == 1


@pytest.mark.parametrize(
    ("printed", "stated", "expected"),
    [
        ("classes [0, 1]\n", "classes\n[0, 1]", True),
        ("classes [0, 2]", "classes [0, 1]", False),
        ("ELBO -4.9", "ELBO -4.8", True),
        ("ELBO -5.3", "ELBO -4.8", False),
        ("ELBO 4.8", "ELBO -4.8", False),
        ("ELBO -4.8", "ELBO", False),
    ],
)
def test_outputs_agree_up_to_the_draws(printed, stated, expected):
    assert pages.agree(printed, stated) is expected
