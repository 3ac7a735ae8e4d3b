"""Every function of torch and JAX on soft integers: exact, or unsupported by site.

The tables `api_table_pyro.csv` and `api_table_numpyro.csv` say which; `make api-table`
makes them anew. `make test` takes a part of their lines, and `-m slow` all of them.
"""

from collections import Counter

import pytest
from api_sweep import sweep, table
from api_sweep.__main__ import get_host

# Lines that `make test` takes: every so many of them.
STRIDES = {"pyro": 20, "numpyro": 40}


@pytest.fixture
def host(backend):
    with backend.double_precision():
        yield get_host(backend.name)


def differences(host, lines):
    """Lines of a table that are not, or no longer, true.

    Other versions of a library have other functions, and may support other calls: of
    them no line may be open.
    """
    found = []
    is_same_version = table.is_of_installed_version(host.name)
    for kind in host.kinds:
        cases, missing = table.cases_in(host, lines, kind)
        if is_same_version:
            found += [f"{case}: not accepted by {host.name}" for case in missing]
        for case, verdict in zip(cases, sweep.judge(host, cases, kind), strict=True):
            word = lines[case.function.name, case.call, kind]
            is_allowed = verdict.word == word
            if not is_same_version:
                is_allowed = verdict.word in (sweep.EXACT, sweep.UNSUPPORTED)
            if not is_allowed:
                change = f"{word} in the table, and is {verdict.word}"
                found.append(f"{case} of {kind}: {change}. {verdict.reason}")
    return found


def part_of(lines, first, stride):
    return dict([*lines.items()][first::stride])


def test_functions_are_what_the_table_says(host):
    lines = part_of(table.read(host.name), 0, STRIDES[host.name])
    assert not differences(host, lines)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_all_functions_are_what_the_table_says(host, part):
    assert not differences(host, part_of(table.read(host.name), part, 20))


def test_the_table_says_exact_or_unsupported_and_nothing_else(backend):
    words = Counter(table.read(backend.name).values())
    assert set(words) <= {sweep.EXACT, sweep.UNSUPPORTED}
    assert words.total() > 500


FAULTS = {
    "a shape": lambda x, plain: plain(x)[None] if plain(x) is not x else x,
    "a value": lambda x, plain: 1 - x if plain(x) is not x else x,
    "an opaque error": lambda x, plain: x if plain(x) is x else x.not_there,
    "a mean that is rounded": lambda x, plain: (1.0 * plain(x)).round(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_sweep_finds_what_is_wrong(host, name):
    plain = host.backend.soft_index.plain
    function = sweep.Function(name, lambda x: FAULTS[name](x, plain))
    cases = sweep.cases_of(host, function, "integers")[:1]
    (verdict,) = sweep.judge(host, cases, "integers")
    assert verdict.word == sweep.OPEN
