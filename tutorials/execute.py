"""Execute tutorials, and write a notebook with its output beside each script.

Run it as ``python tutorials/execute.py NAME...`` with the names of scripts, or with no
name for all tutorials. A tutorial is a script in percent format. An output on stderr,
or one that names a folder of this machine, is an error. With ``--words`` nothing runs:
notebooks take on the words of scripts whose code has not changed.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
LARGEST = 400_000  # bytes
# tqdm warns where a notebook cannot draw its bars; no tutorial draws any.
QUIET = {"PYTHONWARNINGS": "ignore:IProgress not found"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def names() -> list[str]:
    """Every tutorial: the scripts here that begin with a cell."""
    scripts = sorted(HERE.glob("*.py"))
    return [s.stem for s in scripts if s.read_text().startswith("# %% ")]


def unexecuted(name: str) -> NotebookNode:
    """The notebook of a script, with no output, and nothing in it left to chance."""
    notebook = jupytext.read(HERE / f"{name}.py", fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
    return notebook


def execute(name: str) -> NotebookNode:
    """Run all cells of a tutorial in its own folder."""
    notebook = unexecuted(name)
    client = NotebookClient(
        notebook,
        timeout=None,
        extra_arguments=["--log-level=ERROR"],
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute(env={**os.environ, **QUIET})
    notebook.metadata = nbformat.from_dict(METADATA)
    check(name, notebook)
    return notebook


def reworded(name: str) -> NotebookNode:
    """The notebook that is there, with the words that its script has now."""
    new = unexecuted(name)
    old = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    ran, to_run = ([c for c in x.cells if c.cell_type == "code"] for x in (old, new))
    if [cell.source for cell in ran] != [cell.source for cell in to_run]:
        raise ValueError(f"{name}: code has changed; execute it without --words")
    for cell, before in zip(to_run, ran, strict=True):
        cell.execution_count, cell.outputs = before.execution_count, before.outputs
    return new


def check(name: str, notebook: NotebookNode) -> None:
    """Raise an error for outputs that differ from machine to machine."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            noise = output.get("name") == "stderr"
            if noise or any(folder in str(output) for folder in folders()):
                raise ValueError(
                    f"{name}, cell {cell.id}: an output on stderr or with a path of "
                    f"this machine; change the script so that there is none:\n{output}"
                )


def folders() -> list[str]:
    """The folders whose names do not belong into a notebook."""
    return [str(HERE.parent), str(Path.home()), sys.prefix]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="tutorials, without .py; or all")
    parser.add_argument("--words", action="store_true", help="run nothing")
    options = parser.parse_args()
    chosen = [Path(name).stem for name in options.names] or names()
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        parser.error(f"no tutorials: {', '.join(unknown)}; there are {names()}")
    for name in chosen:
        start = time.perf_counter()
        notebook = reworded(name) if options.words else execute(name)
        text = nbformat.writes(notebook) + "\n"
        if len(text) > LARGEST:
            raise ValueError(f"{name}: {len(text)} bytes, more than {LARGEST}")
        (HERE / f"{name}.ipynb").write_text(text)
        seconds = time.perf_counter() - start
        print(f"{name}.ipynb  {seconds:4.0f} s  {len(text) / 1000:4.0f} kB", flush=True)


if __name__ == "__main__":
    main()
