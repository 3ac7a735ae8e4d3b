"""The site: what its pages are made of, and that they leave nothing out."""

import contextlib
import csv
import doctest
import importlib
import inspect
import io
import json
import re
import sys
from pathlib import Path

import pytest
from reference import kl

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BACKENDS = ("pyro", "numpyro")
# In the modules among the public names: what relax and the optimizers use themselves.
INTERNAL = {
    "CountingOptim",
    "ResolvedSchedule",
    "WarmupMessenger",
    "current_step",
    "current_temperature",
    "is_schedule",
    "resolve_schedules",
}


@pytest.fixture
def made(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module("made")


@pytest.fixture
def links(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("links")


# --- the API


def entries():
    """The names that the API pages document, and the only backend of some."""
    text = "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    return re.findall(r"```\{counterparts\} (\S+)\n(?::backend: (\w+)\n)?```", text)


def public_names(backend_name):
    package = importlib.import_module(f"{backend_name}_concrete")
    for name in package.__all__:
        x = getattr(package, name)
        if not inspect.ismodule(x):
            yield name
            continue
        for inner, y in vars(x).items():
            own = getattr(y, "__module__", None) == x.__name__ and callable(y)
            if own and not inner.startswith("_") and inner not in INTERNAL:
                yield f"{name}.{inner}"


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_every_public_name_has_an_entry(backend_name):
    documented = [name for name, only in entries() if only in ("", backend_name)]
    assert len(documented) == len(set(documented))
    missing = set(public_names(backend_name)) - set(documented)
    assert not missing


def documented_objects():
    for name, only in entries():
        for backend_name in BACKENDS:
            if only in ("", backend_name):
                yield pytest.param(
                    f"{backend_name}_concrete", name, id=f"{backend_name}-{name}"
                )


@pytest.mark.parametrize(("package", "name"), [*documented_objects()])
def test_every_entry_has_an_example(package, name):
    x = importlib.import_module(package)
    for part in name.split("."):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(f"{x.__name__}.{part}")
        x = getattr(x, part)
    # test_docs.py runs them.
    assert doctest.DocTestParser().get_examples(x.__doc__)


# --- what is made from other files


def test_the_home_page_has_the_readme_s_words_and_example(made):
    readme = (ROOT / "README.md").read_text()
    example = made.example(readme)
    blocks = re.findall(r"```python\n(.*?)```", example, flags=re.DOTALL)
    assert len(blocks) == 2
    for block, backend_name in zip(blocks, BACKENDS, strict=True):
        assert f"import {backend_name}\n" in block
        assert f"from {backend_name}_concrete import" in block
        assert f"```python\n{block}```" in readme  # which test_docs.py runs
    introduction = made.introduction(readme)
    assert introduction.strip() in readme
    assert "relax" in introduction
    assert "\n#" not in introduction
    assert "```" not in introduction


def test_the_introduction_ends_where_paragraphs_do(made):
    for after in ("## Next", "<table>", "![figure](p.png)", "```python", "    make"):
        readme = f"# Title\n\nOne.\n\nTwo.\n\n{after}\nmore\n"
        assert made.introduction(readme) == "One.\n\nTwo.\n"


def notebook(path, *texts):
    cells = [{"cell_type": "markdown", "source": [text]} for text in texts]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))


def test_tutorials_are_listed_by_backend_in_order(made, tmp_path):
    assert "toctree" not in made.tutorials(tmp_path)
    notebook(tmp_path / "zebra_pyro.ipynb", "# About zebras, in Pyro\nOne\nline.")
    notebook(tmp_path / "discrete_vae_numpyro.ipynb", "No heading.\n## Low")
    notebook(tmp_path / "swap_the_sites_pyro.ipynb", "# Swap in Pyro\n\nA.\n\nB.")
    notebook(tmp_path / "swap_the_sites_numpyro.ipynb", "# Swap in NumPyro", "C.")
    tabs, _, pages = made.tutorials(tmp_path).partition("```{toctree}")
    pyro, numpyro = tabs.split("{tab-item}")[1:]
    assert pyro.startswith(" Pyro")
    assert re.findall(r"^\*\*.*\n: .*$", pyro, flags=re.MULTILINE) == [
        "**[Swap](swap_the_sites_pyro.ipynb)**\n: A.",
        "**[About zebras](zebra_pyro.ipynb)**\n: One line.",
    ]
    assert re.findall(r"^\*\*.*\n: .*$", numpyro, flags=re.MULTILINE) == [
        "**[Swap](swap_the_sites_numpyro.ipynb)**\n: C.",
        "**[discrete vae numpyro](discrete_vae_numpyro.ipynb)**\n: No heading. ## Low",
    ]
    assert pages.split()[1:-1] == [
        "swap_the_sites_pyro",
        "swap_the_sites_numpyro",
        "discrete_vae_numpyro",
        "zebra_pyro",
    ]


def test_the_summary_of_the_api_has_a_line_for_each_entry(made):
    summary = made.api_summary(DOCS / "api")
    rows = re.findall(r"^\| \[`(\S+)`\]\((\w+\.md)#\S+\) \| (.+) \|$", summary, re.M)
    assert [name for name, _, _ in rows] == [
        name
        for page in re.findall(r"^\| \[[^`].*\]\((\w+\.md)\) \|", summary, re.M)
        for name in re.findall(
            r"\{counterparts\} (\S+)", (DOCS / "api" / page).read_text()
        )
    ]
    assert {name for name, _, _ in rows} == {name for name, _ in entries()}
    assert all(sentence.endswith(".") for _, _, sentence in rows)
    assert not re.search(r"\b(Num)?Pyro's\b", summary)


def test_notebooks_are_copied_and_old_copies_removed(made, tmp_path):
    source, target = tmp_path / "tutorials", tmp_path / "docs"
    source.mkdir()
    notebook(source / "a_pyro.ipynb", "# A")
    made.copy_notebooks(source, target)
    copied = json.loads((target / "a_pyro.ipynb").read_text())
    assert copied["cells"] == json.loads((source / "a_pyro.ipynb").read_text())["cells"]
    (source / "a_pyro.ipynb").rename(source / "b_pyro.ipynb")
    (target / "index.md").write_text("stays")
    made.copy_notebooks(source, target)
    assert sorted(x.name for x in target.iterdir()) == ["b_pyro.ipynb", "index.md"]


def test_every_result_is_on_the_page_of_benchmarks(made):
    from benchmarks.__main__ import QUESTIONS

    page = made.benchmarks(ROOT / "benchmarks")
    commands = re.findall(r"python -m benchmarks (\w+)", page)
    assert set(commands) <= set(QUESTIONS)
    assert len(commands) == len(set(commands))
    lines = [line.replace("\\", "") for line in page.splitlines()]
    for path in (ROOT / "benchmarks" / "results").glob("*.csv"):
        assert any(path.stem.startswith(f"{name}_") for name in commands)
        head, *rows = made.rows_of(path)
        assert f"| {' | '.join(head)} |" in lines
        for row in rows[0]:
            assert f"| {' | '.join(row)} |" in lines
        facts = [x for x in path.read_text().splitlines() if x.startswith("# ")]
        words = ", ".join(x[2:].replace(": ", " ") for x in facts)
        assert f"Made on: {words}." in lines


def test_long_tables_are_folded_under_their_totals(made, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "finite.py").write_text('"""How often?\n\nWords."""\n')
    rows = "".join(f"{name},4,{i % 2}\n" for i in range(15) for name in ("a", "b_c"))
    text = f"# cores: 2\nvariable,cells,failed\n{rows}"
    (tmp_path / "results" / "finite_pyro.csv").write_text(text)
    page = made.benchmarks(tmp_path)
    assert page.startswith(
        "## How often?\n\nWords.\n\n```\npython -m benchmarks finite"
    )
    assert "| a | 60 | 7 |\n| b\\_c | 60 | 7 |" in page
    assert "{dropdown} All 30 rows of `finite_pyro.csv`" in page
    assert "NumPyro" not in page


def test_the_pages_include_what_is_made(made, tmp_path):
    (tmp_path / "docs").mkdir()
    made.write(ROOT, tmp_path / "docs")
    files = {path.name for path in (tmp_path / "docs" / "_made").iterdir()}
    for page in DOCS.rglob("*.md"):
        if "_made" in page.parts:
            continue
        included = re.findall(r"\{include\} (?:\.\./)?_made/(\S+)", page.read_text())
        assert set(included) <= files, page


# --- what the pages say

# Words of the project's past, for each of which the backends have a better one.
LEFT_OUT = (
    r"hosts?|twins?|zoo|datum|in silence|sum(med)? out|soft points?|hard values?|"
    r"vertex|vertices|mass left out|as it stands|peers?|refused|judged"
)


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("api/*.md"))],
    ids=lambda path: path.stem,
)
def test_pages_use_the_words_of_the_backends(path):
    found = re.search(rf"\b({LEFT_OUT})\b", path.read_text(), flags=re.IGNORECASE)
    assert found is None


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_opens_with_a_sentence(path):
    text = path.read_text()
    if "{include}" in text[:100]:  # the home page and the changelog
        return
    title, _, rest = text.partition("\n\n")
    assert title.startswith("# ")
    assert re.match(r"[A-Z`]", rest)


@pytest.mark.parametrize("page", ["citing"])
def test_programs_on_the_pages_run(page, made):
    text = (DOCS / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    printed = []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(block, {})
        printed.append(out.getvalue())
    assert len(printed) == 2
    assert printed[0] == printed[1]
    assert "@inproceedings{liu2023bridging" in printed[0]


def test_the_page_on_citing_says_what_cite_says(backend):
    text = (DOCS / "citing.md").read_text()
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", text, flags=re.MULTILINE)
    assert len(rows) >= 10
    for names, words in rows:
        keys = {
            k for x in re.findall(r"\{cite:t\}`(.+?)`", words) for k in x.split(",")
        }
        for name in re.findall(r"`(\w+)`", names):
            found = backend.package.cite(getattr(backend.package, name)).keys
            assert set(found) - {"concrete_ppl"} == keys


def test_the_floor_of_unequal_temperatures_is_as_quoted():
    floor = kl.logit_binary_concrete_unequal_kl(2 / 3, 0.0, 1 / 2, 0.0)
    for page in ("gotchas", "notation"):
        text = (DOCS / f"{page}.md").read_text()
        assert f"{floor:.4f} nats for each binary site" in text
    assert 200 * floor > 10


# --- links


def site(folder, **pages):
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return folder


def test_links_that_lead_somewhere_pass(links, tmp_path, monkeypatch, capsys):
    site(
        tmp_path,
        a='<a href="b.html#x">1</a><a href="#y">2</a><i id="y"></i><a href="c/">3</a>'
        '<a href="https://example.org/none">4</a><img src="p%20q.png">',
        b='<h1 id="x"></h1><a href="a.html">5</a><a href="">6</a>',
    )
    (tmp_path / "c").mkdir()
    site(tmp_path / "c", index='<a href="../a.html#y">7</a>')
    (tmp_path / "p q.png").write_bytes(b"")
    assert links.broken(tmp_path) == []
    monkeypatch.setattr(sys, "argv", ["links.py", str(tmp_path)])
    assert not links.main()
    assert "3 pages" in capsys.readouterr().out


def test_links_that_lead_nowhere_are_named(links, tmp_path, monkeypatch, capsys):
    site(tmp_path, a='<a href="b.html#z">1</a><img src="p.png">', b="")
    assert links.broken(tmp_path) == [
        "a.html: b.html#z: the page has no such anchor",
        "a.html: p.png: there is no such file",
    ]
    monkeypatch.setattr(sys, "argv", ["links.py", str(tmp_path)])
    assert links.main()
    # And a folder without pages is no site.
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["links.py", str(tmp_path / "empty")])
    assert links.main()


# --- the paper


def cell_row(**changes):
    row = {
        "network": "200H~784V",
        "arity": "2",
        "data": "mnist",
        "estimator": "score",
        "particles": "1",
        "seed": "0",
        "steps": "500000",
        "rate": "0.0005",
        "schedule": "cosine",
        "weight decay": "0.0",
        "bound": "test",
        "evaluated particles": "5000",
        "images": "10000",
        "nats": "-95.04",
        "paper concrete": "-92.1",
        "paper vimco": "-93.8",
        "device": "a processor",
        "versions": "jax 1",
    }
    return {**row, **changes}


def test_cells_of_the_paper_have_a_line_for_all_seeds(made, tmp_path):
    rows = [
        cell_row(),
        cell_row(seed="1", nats="-96.0"),
        cell_row(**{"evaluated particles": "1", "nats": "-99.0"}),
        cell_row(**{"evaluated particles": "50000", "nats": "-94.0"}),
        cell_row(bound="train", nats="-90.0"),
        cell_row(particles="50", estimator="concrete", **{"weight decay": "0.001"}),
        cell_row(data="omniglot", particles="5", **{"paper vimco": ""}),
        cell_row(network="392V-240H-392V", estimator="discrete"),
    ]
    with (tmp_path / "cells_numpyro.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    tables = made.paper_tables(tmp_path)
    assert set(tables) == {
        f"paper_{kind}_{backend}.md"
        for kind in ("mnist", "omniglot", "conditional")
        for backend in BACKENDS
    }
    assert tables["paper_mnist_pyro.md"] == "No run is committed yet.\n"
    lines = tables["paper_mnist_numpyro.md"].splitlines()
    assert lines[2:] == [
        "| 200H~784V | 2 | 1 | NVIL | 95.5 (95.0 to 96.0) | 92.1 | 93.8 "
        "| 500,000 | 0.0005, cosine | 10,000 at m = 5,000 | 2 |",
        "| 200H~784V | 2 | 1 | NVIL | 94.0 | 92.1 | 93.8 "
        "| 500,000 | 0.0005, cosine | 10,000 at m = 50,000 | 1 |",
        "| 200H~784V | 2 | 50 | Concrete | 95.0 | 92.1 | 93.8 "
        "| 500,000 | 0.0005, cosine, decay 0.001 | 10,000 at m = 5,000 | 1 |",
        "",
        "Made on: a processor, jax 1.",
    ]
    assert "VIMCO |" in tables["paper_omniglot_numpyro.md"].splitlines()[2]
    assert "discrete scoring" in tables["paper_conditional_numpyro.md"]
