"""Make the table of a backend anew, and print what is open."""

import argparse
from collections import Counter
from importlib import import_module

from api_sweep import sweep, table

CHUNK = 25


def get_host(name):
    family = {"pyro": "PyroHost", "numpyro": "NumPyroHost"}[name]
    return getattr(import_module(f"api_sweep.on_{name}"), family)()


def sweep_functions(host, functions, kinds, verdicts):
    for kind in kinds:
        cases = [c for f in functions for c in sweep.cases_of(host, f, kind)]
        for case, verdict in zip(cases, sweep.judge(host, cases, kind), strict=True):
            verdicts[case.function.name, case.call, kind] = verdict
            if verdict.word == sweep.OPEN:
                print(f"{case} of {kind}: {verdict.reason}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=("pyro", "numpyro"))
    parser.add_argument("--only", default="", help="part of the functions' names")
    parser.add_argument("--kinds", nargs="+", help="kinds of arguments, instead of all")
    options = parser.parse_args()
    host = get_host(options.backend)
    functions = [f for f in host.functions() if options.only in f.name]
    verdicts = {}
    with host.backend.double_precision():
        for i in range(0, len(functions), CHUNK):
            chunk = functions[i : i + CHUNK]
            sweep_functions(host, chunk, options.kinds or host.kinds, verdicts)
            if not options.only:
                table.write(host.name, host.kinds, verdicts)
            print(f"# {i + len(chunk)} of {len(functions)} functions", flush=True)
    print(dict(Counter(verdict.word for verdict in verdicts.values())))


if __name__ == "__main__":
    main()
