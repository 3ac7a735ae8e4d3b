"""cite: what a program uses, by what its parts are documented to come from."""

import re
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAPER = {"maddison2017concrete", "jang2017categorical"}
SOFTWARE = {"concrete_ppl"}


def keys(backend, *programs):
    return set(backend.package.cite(*programs).keys)


def references():
    return (
        resources.files("concrete_core").joinpath("references.bib").read_text("utf-8")
    )


def model_of(backend, infer=None):
    def model():
        logits = backend.array([0.0, 1.0, 2.0])
        backend.site("z", backend.dist.Categorical(logits=logits), infer=infer or {})

    return model


def test_without_programs_it_is_the_whole_file(backend):
    found = backend.package.cite()
    assert found == references()
    assert len(found.keys) == len(set(found.keys)) == found.count("\n@") + 1
    assert repr(found) == found


def test_the_software_is_that_of_the_citation_file(backend):
    text = (ROOT / "CITATION.cff").read_text()
    entry = backend.package.cite(backend.package.RLOO()).split("\n\n")[-1]
    for field in ("title", "version"):
        (value,) = re.findall(rf'^{field}: "?([^"\n]+)', text, flags=re.MULTILINE)
        assert f"{{{value}}}" in entry
    (author,) = re.findall(r'^  - name: "([^"]+)', text, flags=re.MULTILINE)
    assert author in entry
    assert backend.package.__version__ in entry
    abstract = re.search(r"abstract: >-\n((?:  .+\n)+)", text).group(1)
    assert " ".join(abstract.split()).rstrip(".") in entry


# The first of the References in the docstring of each is where it is from.
DOCUMENTED = [
    "StraightThrough",
    "GumbelRao",
    "ReinMax",
    "RLOO",
    "LocalExpectations",
    "DisARM",
    "REBAR",
    "IWAE",
    "iwae_bound",
    "plan_sites",
    "Concrete",
    "AutoConcrete",
    "relax",
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_paper_of_a_docstring_is_cited(backend, name):
    x = getattr(backend.package, name)
    paper = re.search(r"https://(?:arxiv|openreview)\S+", x.__doc__).group()
    assert paper in backend.package.cite(x)


ESTIMATORS = {
    "Relaxed": set(),
    "StraightThrough": {"bengio2013estimating"},
    "GumbelRao": {"paulus2021rao"},
    "ReinMax": {"liu2023bridging"},
    "ZGR": {"shekhovtsov2023cold"},
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_relaxed_model_is_cited_by_its_estimator(backend, name):
    estimator = getattr(backend.package, name)()
    relaxed = backend.package.relax(model_of(backend), 1.0, estimator=estimator)
    assert keys(backend, relaxed) == PAPER | ESTIMATORS[name] | SOFTWARE
    hard = backend.package.harden(relaxed)
    assert keys(backend, hard) == PAPER | ESTIMATORS[name] | SOFTWARE


def test_wrappers_and_guides_are_looked_through(backend):
    import functools

    package = backend.package
    relaxed = package.relax(model_of(backend), 1.0, estimator=package.ReinMax())
    expected = PAPER | {"liu2023bridging"} | SOFTWARE

    @functools.wraps(relaxed)
    def wrapped():
        return relaxed()

    assert keys(backend, functools.partial(relaxed)) == expected
    assert keys(backend, backend.block(relaxed, ["other"])) == expected
    assert keys(backend, package.AutoConcrete(relaxed)) == expected
    assert keys(backend, package.config_relax(relaxed)) == expected


def test_an_svi_is_cited_by_all_of_its_parts(backend):
    package = backend.package
    model = model_of(backend)
    relaxed = package.relax(model, 1.0)
    optim = backend.optimiser(0.01, False)
    infer = getattr(backend, backend.name).infer
    svi = infer.SVI(relaxed, package.AutoConcrete(relaxed), optim, infer.Trace_ELBO())
    assert keys(backend, svi) == PAPER | SOFTWARE
    svi = infer.SVI(model, model, optim, package.DisARM())
    assert keys(backend, svi) == {"dong2020disarm"} | SOFTWARE


def test_a_program_that_has_run_is_cited_by_its_marks(backend):
    package = backend.package
    mark = {"relax": {"estimator": package.GumbelRao(2)}}
    relaxed = package.relax(model_of(backend, mark), 1.0)
    backend.call(relaxed)
    assert keys(backend, relaxed) == PAPER | {"paulus2021rao"} | SOFTWARE
    # And no longer by what was given for sites that are not relaxed.
    estimators = {"z": package.ZGR(), "other": package.ReinMax()}

    def model():
        model_of(backend)()
        unit = backend.dist.Normal(backend.array(0.0), 1.0)
        backend.site("other", unit, obs=backend.array(0.3))

    relaxed = package.relax(model, 1.0, estimator=estimators)
    both = {"shekhovtsov2023cold", "liu2023bridging"}
    assert keys(backend, relaxed) == PAPER | both | SOFTWARE
    backend.call(relaxed)
    assert keys(backend, relaxed) == PAPER | {"shekhovtsov2023cold"} | SOFTWARE


def test_marks_by_config_relax_are_seen_at_once(backend):
    package = backend.package
    marked = package.config_relax(model_of(backend), estimator=package.ReinMax())
    assert "liu2023bridging" in keys(backend, package.relax(marked, 1.0))


def test_several_programs_keep_the_order_of_the_file(backend):
    package = backend.package
    found = package.cite(package.REBAR(), package.RLOO(num_particles=2)).keys
    assert found == (
        "kool2019buy",
        "mnih2016variational",
        "tucker2017rebar",
        "concrete_ppl",
    )


def test_what_is_not_ours_is_an_error(backend):
    with pytest.raises(TypeError, match=r"nothing of this package in .*model"):
        backend.package.cite(model_of(backend))
    with pytest.raises(TypeError, match="pass what relax has returned"):
        backend.package.cite(backend.package.RLOO(), "relax")
