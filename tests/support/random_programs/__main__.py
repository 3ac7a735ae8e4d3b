"""Judge many random programs: how many are exact, unsupported, or open.

Each program depends on the seed and its number alone. Open ones are made small and
printed as source, with what is wrong.
"""

import argparse
import random
from collections import Counter
from dataclasses import dataclass, field

from random_programs.generate import generate
from random_programs.hosts import get_host
from random_programs.judge import judge
from random_programs.shrink import shrink


@dataclass
class Summary:
    """Counts over programs and their parts."""

    exact: int = 0
    with_unsupported: int = 0
    statements: int = 0
    failures: Counter = field(default_factory=Counter)
    unsupported: Counter = field(default_factory=Counter)

    def add(self, host, program, verdict):
        self.statements += len(program.parts) - len(program.sites)
        for part, _ in verdict.unsupported:
            operation = getattr(part, "operation", None)
            source = operation.spelled(host.name) if operation else part.source
            self.unsupported[source] += 1
        if verdict.failure:
            self.failures[verdict.failure.kind] += 1
        elif verdict.unsupported:
            self.with_unsupported += 1
        else:
            self.exact += 1

    def __str__(self):
        failures = ", ".join(f"{n} {kind}" for kind, n in self.failures.most_common())
        share = self.unsupported.total() / max(self.statements, 1)
        return (
            f"{self.exact} exact, {self.with_unsupported} with unsupported statements, "
            f"{self.failures.total()} open ({failures or 'none'}); "
            f"{self.unsupported.total()} of {self.statements} statements unsupported "
            f"({share:.1%})"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=("pyro", "numpyro"))
    parser.add_argument("--programs", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    host, summary = get_host(options.backend), Summary()
    for number in range(options.first, options.first + options.programs):
        program = generate(host, random.Random(f"{options.seed} {number}"))
        verdict = judge(host, program)
        summary.add(host, program, verdict)
        if verdict.failure:
            small, failure = shrink(host, verdict.program, verdict.failure)
            source = small.text(host.name)
            print(f"--- program {number}\n{source}\n# {failure}", flush=True)
        if (number + 1) % 100 == 0:
            host.forget_compiled()
            print(f"### {number + 1}: {summary}", flush=True)
    print(f"{options.backend}: {summary}")
    for source, count in summary.unsupported.most_common():
        print(f"  unsupported {count} times: {source}")


if __name__ == "__main__":
    main()
