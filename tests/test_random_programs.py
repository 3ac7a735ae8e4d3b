"""Random programs: relaxed, they are the discrete program at corners, or say why not.

These are the first ones of `make fuzz`, which runs many more: see `random_programs`.
"""

import random

import pytest
from random_programs.families import FAMILIES
from random_programs.generate import generate
from random_programs.hosts import get_host
from random_programs.judge import judge
from random_programs.operations import Operation
from random_programs.program import Program, Site, Statement
from random_programs.shrink import shrink

# A program of NumPyro takes ten times as long, for it is compiled.
PROGRAMS = {"pyro": 150, "numpyro": 12}
MOST_UNSUPPORTED = 0.1


@pytest.fixture
def host(backend):
    return get_host(backend.name)


def test_random_programs_are_exact_or_unsupported_by_site(host):
    statements, unsupported = [], []
    for number in range(PROGRAMS[host.name]):
        program = generate(host, random.Random(f"0 {number}"))
        verdict = judge(host, program)
        if verdict.failure:
            small, failure = shrink(host, verdict.program, verdict.failure)
            pytest.fail(f"program {number}\n{small.text(host.name)}\n# {failure}")
        statements.extend(program.statements)
        unsupported.extend(verdict.unsupported)
    assert len(unsupported) <= MOST_UNSUPPORTED * len(statements)


# --- the judge ------------------------------------------------------------------------


def program_of(*operations):
    """A site of three values, and operations of which each takes the last result."""
    family = next(f for f in FAMILIES if f.source == "dist.Categorical({p3})")
    parts = [Site("z0", family, {"p3": "array([0.2, 0.5, 0.3])"}, ())]
    for number, source in enumerate(operations, 1):
        operand = {"v": parts[-1].target}
        parts.append(Statement(f"v{number}", Operation(source, source), operand))
    return Program(tuple(parts))


@pytest.fixture
def faulty(host):
    """The host with functions that no relaxation should have."""
    plain = host.backend.soft_index.plain

    def is_soft(x):
        return plain(x) is not x

    def opaque(x):
        if is_soft(x):
            raise RuntimeError("a tensor is not what it seems")
        return x

    host.names |= {
        "cut": lambda x: host.without_gradient(x),
        "opaque": opaque,
        "rounded": lambda x: host.names["xp"].round(1.0 * plain(x)),
        "shifted": lambda x: plain(x) * 1.0 + 0.25 * is_soft(x),
    }
    return host


FAULTS = {
    "cut({v} * 0.7)": "gradient",
    "opaque({v})": "opaque error",
    "rounded({v})": "inside",
    "shifted({v})": "corner",
}


@pytest.mark.parametrize("source", FAULTS)
def test_the_judge_finds_what_is_wrong(faulty, source):
    program = program_of("{v} + 1", source, "{v} * 2")
    failure = judge(faulty, program).failure
    assert failure.kind == FAULTS[source]
    assert failure.target == "v2"
