"""The committed table: what each call does to soft integers, by their type."""

import csv
from importlib.metadata import version
from pathlib import Path

from api_sweep import sweep

FOLDER = Path(__file__).parents[1]
PINS = Path(__file__).parents[3] / "constraints.txt"
LIBRARIES = {"pyro": "torch", "numpyro": "jax"}


def is_of_installed_version(name):
    """Whether the library has the version that the table was made with."""
    library = LIBRARIES[name]
    installed = version(library).partition("+")[0]
    return f"{library}=={installed}" in PINS.read_text().split()


def path_of(name):
    return FOLDER / f"api_table_{name}.csv"


def read(name):
    """Verdicts by function, call and kind of the arguments."""
    with path_of(name).open(newline="") as file:
        rows = [*csv.DictReader(file)]
    verdicts = {}
    for row in rows:
        function, call = row.pop("function"), row.pop("call")
        for kind, word in row.items():
            if word:
                verdicts[function, call, kind] = word
    return verdicts


def write(name, kinds, verdicts):
    """Write verdicts by function, call and kind, one line a call."""
    rows = {}
    for (function, call, kind), verdict in verdicts.items():
        rows.setdefault((function, call), {})[kind] = verdict.word
    with path_of(name).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["function", "call", *kinds])
        for (function, call), words in rows.items():
            writer.writerow([function, call, *(words.get(kind, "") for kind in kinds)])


def cases_in(host, verdicts, kind):
    """The cases of a table that plain integers accept; and those that they do not."""
    functions = {function.name: function for function in host.functions()}
    cases, missing = [], []
    with sweep.quiet():
        for function, call, other in verdicts:
            if other != kind:
                continue
            case = sweep.Case(functions.get(function), call, kind)
            known = function in functions and host.accepts(case)
            (cases if known else missing).append(case)
    return cases, missing
