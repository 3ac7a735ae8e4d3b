"""Makes a failing program small, as long as it fails in the same way."""

import re
from dataclasses import replace

from random_programs.discrete import Invalid
from random_programs.judge import judge
from random_programs.program import Program, names_read

MOST_ROUNDS = 12


def shrink(host, program, failure):
    """Return the smallest program found to fail in the same way, and its failure."""
    for _ in range(MOST_ROUNDS):
        for smaller in _smaller_programs(program, failure):
            found = _failure_of_kind(host, smaller, failure.kind)
            if found:
                program, failure = smaller, found
                break
        else:
            break
    return program, failure


def _failure_of_kind(host, program, kind):
    try:
        verdict = judge(host, program)
    except Invalid:
        return None
    is_same = verdict.failure and verdict.failure.kind == kind
    return verdict.failure if is_same and not verdict.unsupported else None


def _smaller_programs(program, failure):
    """Programs with a part less, or with a wrapper less; the smallest first."""
    yield _needed_by(program, failure.target)
    for part in program.parts:
        smaller = program.without(part)
        if smaller.sites:
            yield smaller
    for statement in reversed(program.statements):
        for operand in sorted(names_read(statement)):
            yield _replaced(program, statement, operand)
    for site in program.sites:
        if site.wrapper or site.rows:
            simple = replace(site, wrapper="", rows=None)
            yield Program(tuple(simple if p is site else p for p in program.parts))


def _needed_by(program, target):
    """The program without what a variable does not depend on."""
    needed = {target}
    for part in reversed(program.parts):
        if part.target in needed:
            needed |= names_read(part)
    kept = tuple(part for part in program.parts if part.target in needed)
    return Program(kept)


def _replaced(program, statement, operand):
    """The program with an operand in the place of a statement's result."""
    pattern = re.compile(rf"\b{statement.target}\b")
    parts = []
    for part in program.parts:
        if part is statement:
            continue
        arguments = {k: pattern.sub(operand, x) for k, x in part.arguments.items()}
        parts.append(replace(part, arguments=arguments))
    return Program(tuple(parts))
