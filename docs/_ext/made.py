"""Pages and parts of pages that are made from other files of the project.

From the README its introduction and example, from benchmarks/results the tables, from
tutorials/ the notebooks and the list of them, from docstrings the summary of the API.
They are functions of paths and texts; `write` puts their results where the pages
include them.
"""

import ast
import csv
import inspect
import json
import re
from pathlib import Path

from located import located

BACKENDS = {"pyro": "Pyro", "numpyro": "NumPyro"}

# In the order in which to read them; others that are there come after these.
TUTORIALS = (
    "swap_the_sites",
    "lda",
    "missing_data",
    "discrete_vae",
    "enumerate_and_relax",
    "choosing_an_estimator",
    "structured_prediction",
    "past_one_device",
    "nuts_on_relaxed",
)
LONG = 20  # rows above which a table is folded


def write(root: Path, docs: Path) -> None:
    """Write all that is made: parts of pages into docs/_made, notebooks beside them."""
    folder = docs / "_made"
    folder.mkdir(exist_ok=True)
    readme = (root / "README.md").read_text()
    parts = {
        "introduction.md": introduction(readme),
        "example.md": example(readme),
        "tutorials.md": tutorials(root / "tutorials"),
        "api.md": api_summary(root / "docs" / "api"),
        "benchmarks.md": benchmarks(root / "benchmarks"),
    }
    results = root / "benchmarks" / "results"
    parts |= result_tables(results)
    parts |= gallery_tables(root / "benchmarks" / "gallery" / "results")
    parts |= paper_tables(results / "paper")
    for backend in BACKENDS:
        path = results / f"relaxed_kl_of_one_site_{backend}.csv"
        parts[f"kl_{backend}.md"] = kl_of_one_site(path)
    for name, text in parts.items():
        _write(folder / name, text)
    copy_notebooks(root / "tutorials", docs / "tutorials")


def draw(folder: Path) -> None:
    """Draw what plots.simplex draws, for its page; both packages draw the same."""
    from matplotlib.figure import Figure

    from pyro_concrete import plots

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    plots.simplex([2.0, 1.0, 0.5, 0.1], [0.0, 0.7, 1.4], ax=figure.subplots(ncols=4))
    figure.savefig(folder / "simplex.png", dpi=150)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


# --- home


def introduction(readme: str) -> str:
    """The paragraphs between the README's title and whatever comes after them."""
    body = readme.partition("\n")[2]
    end = re.search(r"^(#|<|!\[|```|    |\|)", body, flags=re.MULTILINE)
    return body[: end.start() if end else None].strip() + "\n"


def example(readme: str) -> str:
    """The README's first example of each backend, in tabs, word for word."""
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    first = {h: next(b for b in blocks if f"import {h}\n" in b) for h in BACKENDS}
    return _tabs({h: f"```python\n{block}```" for h, block in first.items()})


def _tabs(bodies: dict[str, str]) -> str:
    """A tab for each backend that has something to show."""
    tabs = [
        f"::::{{tab-item}} {BACKENDS[backend]}\n:sync: {backend}\n\n{body}\n::::\n"
        for backend, body in bodies.items()
        if body
    ]
    return ":::::{tab-set}\n" + "".join(tabs) + ":::::\n"


# --- tutorials


def copy_notebooks(source: Path, target: Path) -> None:
    """Copy the executed notebooks, and remove copies of what is gone."""
    target.mkdir(exist_ok=True)
    kept = {path.name for path in source.glob("*.ipynb")}
    for path in target.glob("*.ipynb"):
        if path.name not in kept:
            path.unlink()
    for name in sorted(kept):
        notebook = json.loads((source / name).read_text())
        # Notebooks that no kernel has saved do not say in which language they are.
        language = {"name": "python", "pygments_lexer": "ipython3"}
        notebook["metadata"].setdefault("language_info", language)
        _write(target / name, json.dumps(notebook))


def tutorials(folder: Path) -> str:
    """A tab for each backend: its tutorials in order, each with its abstract."""
    paths = {}
    for path in sorted(folder.glob("*.ipynb")):
        backend = "numpyro" if path.stem.endswith("_numpyro") else "pyro"
        paths.setdefault(backend, []).append(path)
    if not paths:
        return "The notebooks have not been made yet: see `tutorials/`.\n"
    bodies = {
        backend: "\n".join(map(_tutorial, sorted(paths[backend], key=_order)))
        for backend in BACKENDS
        if backend in paths
    }
    in_order = sorted((path for own in paths.values() for path in own), key=_order)
    pages = "\n".join(path.stem for path in in_order)
    return f"{_tabs(bodies)}\n```{{toctree}}\n:hidden:\n{pages}\n```\n"


def _order(path: Path) -> tuple[int, str, bool]:
    """Where a notebook comes: as listed above, others after these; Pyro first."""
    name = re.sub("_(num)?pyro$", "", path.stem)
    place = TUTORIALS.index(name) if name in TUTORIALS else len(TUTORIALS)
    return place, name, path.stem.endswith("_numpyro")


def _tutorial(path: Path) -> str:
    """The title of a notebook, as a link, and its first paragraph."""
    cells = json.loads(path.read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    text = "\n\n".join(texts)
    heading = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    title = heading.group(1) if heading else path.stem.replace("_", " ")
    title = re.sub(r",? (in|with|on|for) (Num)?Pyro$", "", title)
    after = text[heading.end() :] if heading else text
    abstract = re.match(r"\s*([^#`\s].*?)(\n\n|\Z)", after, flags=re.DOTALL)
    words = " ".join(abstract.group(1).split()) if abstract else ""
    return f"**[{title}]({path.name})**\n: {words or title}\n"


# --- the API


def api_summary(folder: Path) -> str:
    """A table for each page of the API, in order: its names, and what they are."""
    index = (folder / "index.md").read_text()
    names = re.search(r"```\{toctree\}\n(?::.*\n)*([^`]*)```", index)
    pages = [folder / f"{name}.md" for name in names.group(1).split()]
    return "\n".join(_summary_of_page(page) for page in pages)


def _summary_of_page(page: Path) -> str:
    text = page.read_text()
    title = re.search(r"^# (.+)$", text, flags=re.MULTILINE).group(1)
    entries = re.findall(r"\{counterparts\} (\S+)\n(?::backend: (\w+)\n)?", text)
    rows = [
        f"| [`{name}`]({page.name}#{_anchor(name)}) | {_first_sentence(name, only)} |\n"
        for name, only in entries
    ]
    head = f"| [{title}]({page.name}) | |\n|---|---|\n"
    return head + "".join(rows)


def _first_sentence(name: str, only: str) -> str:
    """The first line of a docstring, for both backends."""
    docstring = inspect.getdoc(located(f"{only or 'pyro'}_concrete.{name}"))
    sentence = " ".join(docstring.partition("\n\n")[0].split())
    if only:
        return f"{sentence} {BACKENDS[only]} only."
    return re.sub(r"\bPyro's\b", "the backend's", sentence)


def _anchor(heading: str) -> str:
    """The anchor that MyST gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# --- benchmarks


def benchmarks(folder: Path) -> str:
    """A section for each question that has results, with its tables."""
    sections = []
    questions = sorted(path.stem for path in folder.glob("*.py"))
    results = sorted((folder / "results").glob("*.csv"))
    for question in questions:
        own = [p for p in results if _question(p, questions) == question]
        if not own:
            continue
        source = (folder / f"{question}.py").read_text()
        title, _, words = ast.get_docstring(ast.parse(source)).partition("\n")
        data = " --data FOLDER" if "NEEDS_DATA = True" in source else ""
        command = f"```\npython -m benchmarks {question}{data}\n```"
        tabs = _tabs({h: _results(own, h, question) for h in BACKENDS})
        sections.append("\n\n".join([f"## {title}", words.strip(), command, tabs]))
    return "\n\n".join(sections) + "\n"


def result_tables(folder: Path) -> dict[str, str]:
    """The results of few rows as tables, which pages quote in the place of figures."""
    found = {path: rows_of(path) for path in sorted(folder.glob("*.csv"))}
    return {
        f"{path.stem}.md": _table(*result) + "\n"
        for path, result in found.items()
        if len(result[1]) <= LONG
    }


def gallery_tables(folder: Path) -> dict[str, str]:
    """The summaries of the gallery of models, each with where it was made."""
    return {
        f"gallery_{path.stem}.md": f"{_table(*rows_of(path))}\n\n{_made_on(path)}\n"
        for path in sorted(folder.glob("*.csv"))
        if not path.stem.startswith("runs_")
    }


# --- the paper

# What the rows of one line of a table have in common.
_CELL = ("network", "arity", "particles", "estimator", "steps")
_SETTINGS = ("rate", "schedule", "weight decay", "images", "evaluated particles")
_PAPER_HEAD = (
    "network",
    "values",
    "m",
    "trained by",
    "here",
    "paper: Concrete",
    "paper: VIMCO, NVIL",
    "steps",
    "learning rate",
    "images",
    "seeds",
)


def paper_tables(folder: Path) -> dict[str, str]:
    """Tables of the paper's cells that have been run: for each data set and backend.

    They have the negative log-likelihood of the test set by each number of particles
    that a network was evaluated with, but for one particle.
    """
    tables = {}
    for backend in BACKENDS:
        path = folder / f"cells_{backend}.csv"
        rows = _rows_by_name(path) if path.exists() else []
        rows = [row for row in rows if row["bound"] == "test"]
        rows = [row for row in rows if row["evaluated particles"] != "1"]
        for kind in ("mnist", "omniglot", "conditional"):
            chosen = [row for row in rows if _paper_table_of(row) == kind]
            tables[f"paper_{kind}_{backend}.md"] = _paper_table(chosen)
    return tables


def _rows_by_name(path: Path) -> list[dict[str, str]]:
    head, rows = rows_of(path)
    return [dict(zip(head, row, strict=True)) for row in rows]


def _paper_table_of(row: dict[str, str]) -> str:
    """The table that a row belongs to."""
    is_conditional = re.match(r"\d+V", row["network"]) is not None
    return "conditional" if is_conditional else row["data"]


def _paper_table(rows: list[dict[str, str]]) -> str:
    """A line for each cell and its settings, with all seeds, and where it was made."""
    if not rows:
        return "No run is committed yet.\n"
    cells = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in (*_CELL, *_SETTINGS)), []).append(
            row
        )
    order = sorted(
        cells, key=lambda x: (x[0], int(x[1]), int(x[2]), *x[3:-1], int(x[-1]))
    )
    table = _table(_PAPER_HEAD, [_paper_line(cells[key]) for key in order])
    makers = sorted({f"{row['device']}, {row['versions']}" for row in rows})
    return f"{table}\n\nMade on: {'; '.join(makers)}.\n"


def _paper_line(rows: list[dict[str, str]]) -> list[str]:
    """One line of a table, from the rows of its seeds."""
    losses = [-float(row["nats"]) for row in rows]
    here = f"{sum(losses) / len(losses):.1f}"
    if len(losses) > 1:
        here += f" ({min(losses):.1f} to {max(losses):.1f})"
    row = rows[0]
    is_nvil = row["particles"] == "1"
    trained_by = {
        "concrete": "Concrete",
        "discrete": "discrete scoring",
        "score": "NVIL" if is_nvil else "VIMCO",
    }
    decay = float(row["weight decay"])
    return [
        row["network"],
        row["arity"],
        row["particles"],
        trained_by[row["estimator"]],
        here,
        row["paper concrete"].lstrip("-"),
        row["paper vimco"].lstrip("-"),
        f"{int(row['steps']):,}",
        f"{row['rate']}, {row['schedule']}" + f", decay {decay:g}" * (decay > 0),
        f"{int(row['images']):,} at m = {int(row['evaluated particles']):,}",
        str(len(rows)),
    ]


def kl_of_one_site(path: Path) -> str:
    """What Trace_ELBO says of the backend's own relaxed binary site, and of ours."""
    head, rows = rows_of(path)
    sites = ("RelaxedBernoulli", "relax(Bernoulli)")
    chosen = [x for x in rows if x[0] in sites and x[1] == "Trace_ELBO"]
    return _table([head[0], *head[2:]], [[x[0], *x[2:]] for x in chosen]) + "\n"


def rows_of(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a file of results."""
    lines = path.read_text().splitlines()
    head, *rows = csv.reader(x for x in lines if not x.startswith("#"))
    return head, rows


def _question(path: Path, questions: list[str]) -> str:
    """The question that a file of results is from: the longest that begins its name."""
    return max((q for q in questions if path.stem.startswith(f"{q}_")), key=len)


def _results(paths: list[Path], backend: str, question: str) -> str:
    """The files of results of one backend."""
    ends = (f"_{backend}", f"_{backend}_gpu")
    own = [path for path in paths if path.stem.endswith(ends)]
    return "\n\n".join(_result(path, question) for path in own)


def _result(path: Path, question: str) -> str:
    """One file of results: where it was made, and its rows."""
    head, rows = rows_of(path)
    is_of_gpu = path.stem.endswith("_gpu")
    name = path.stem.removesuffix("_gpu").rpartition("_")[0]
    variant = name.removeprefix(question).strip("_").replace("_", " ")
    variant = "On a GPU" if is_of_gpu else variant
    parts = [f"**{variant[:1].upper()}{variant[1:]}**"] if variant else []
    parts.append(_made_on(path))
    if len(rows) > LONG:
        if {"variable", "cells", "failed"} <= {*head}:
            parts.append(_table(*_totals(head, rows)))
        fold = f":::{{dropdown}} All {len(rows)} rows of `{path.name}`\n"
        parts.append(fold + _table(head, rows) + "\n:::")
    else:
        parts.append(_table(head, rows))
    return "\n\n".join(parts)


def _made_on(path: Path) -> str:
    """The machine and the versions that a file of results begins with."""
    lines = path.read_text().splitlines()
    facts = [x.lstrip("# ").replace(": ", " ") for x in lines if x.startswith("#")]
    return f"Made on: {', '.join(facts)}."


def _totals(head: list[str], rows: list[list[str]]) -> tuple:
    """Cells and failures by variable."""
    columns = [head.index(name) for name in ("variable", "cells", "failed")]
    totals = {}
    for row in rows:
        variable, *counts = (row[i] for i in columns)
        sums = totals.setdefault(variable, [0, 0])
        totals[variable] = [a + int(b) for a, b in zip(sums, counts, strict=True)]
    return ["variable", "cells", "failed"], [
        [k, *map(str, v)] for k, v in totals.items()
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown: numbers to the right."""
    columns = list(zip(*rows, strict=True))
    rules = ["---:" if all(map(_is_number, c)) else "---" for c in columns]
    cells = [[*map(_cell, head)], rules, *[[*map(_cell, row)] for row in rows]]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _cell(text: str) -> str:
    # Names of models and columns have underscores, which are no emphasis here.
    return text.replace("_", r"\_").replace("|", r"\|").replace("*", r"\*")


def _is_number(text: str) -> bool:
    return not text or re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text) is not None
