"""Execute tutorials, and write a notebook with its output beside each script.

Run it as ``python tutorials/execute.py NAME...`` with the names of scripts, or with no
name for all tutorials. A tutorial is a script in percent format. An output on stderr,
or one that names a folder of this machine, is an error.
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
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute(env={**os.environ, **QUIET})
    notebook.metadata = nbformat.from_dict(METADATA)
    check(name, notebook)
    return notebook


def check(name: str, notebook: NotebookNode) -> None:
    """Refuse outputs that differ from machine to machine."""
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
    chosen = [Path(name).stem for name in parser.parse_args().names] or names()
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        parser.error(f"no tutorials: {', '.join(unknown)}; there are {names()}")
    for name in chosen:
        start = time.perf_counter()
        text = nbformat.writes(execute(name)) + "\n"
        if len(text) > LARGEST:
            raise ValueError(f"{name}: {len(text)} bytes, more than {LARGEST}")
        (HERE / f"{name}.ipynb").write_text(text)
        seconds = time.perf_counter() - start
        print(f"{name}.ipynb  {seconds:4.0f} s  {len(text) / 1000:4.0f} kB", flush=True)


if __name__ == "__main__":
    main()
