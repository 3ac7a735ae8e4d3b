"""What a random program is: sites, statements and an observation, as source."""

import re
from dataclasses import dataclass

from random_programs.families import Family
from random_programs.operations import Operation


@dataclass(frozen=True)
class Site:
    """A latent site.

    Attributes:
        target: Its name, `z0` and so on.
        arguments: The source of each slot of the family.
        shape: Shape of the site, the classes of a one-hot site left out.
        wrapper: What follows the constructor, such as `.to_event(1)`.
        rows: Size of a plate around the site, or None.
    """

    target: str
    family: Family
    arguments: dict[str, str]
    shape: tuple[int, ...]
    wrapper: str = ""
    rows: int | None = None

    def lines(self, backend):
        fn = self.family.spelled(backend).format(**self.arguments) + self.wrapper
        sample = f'{self.target} = sample("{self.target}", {fn})'
        if self.rows is None:
            return [sample]
        return [f'with plate("{self.target}_rows", {self.rows}):', f"    {sample}"]


@dataclass(frozen=True)
class Statement:
    """An operation on variables, whose result is a variable `v3` and so on."""

    target: str
    operation: Operation
    arguments: dict[str, str]

    def lines(self, backend):
        source = self.operation.spelled(backend).format(**self.arguments)
        return [f"{self.target} = {source}"]


@dataclass(frozen=True)
class Observation:
    """A likelihood of the variable {a}, or one of a variable that is observed."""

    source: str
    arguments: dict[str, str]
    observes_variable: bool = False
    target: str = "y"

    def lines(self, backend):
        return self.source.format(**self.arguments).splitlines()


Part = Site | Statement | Observation


@dataclass(frozen=True)
class Program:
    """Parts in the order in which they run."""

    parts: tuple[Part, ...] = ()

    def text(self, backend):
        return "\n".join(line for part in self.parts for line in part.lines(backend))

    @property
    def sites(self):
        return [part for part in self.parts if isinstance(part, Site)]

    @property
    def statements(self):
        return [part for part in self.parts if isinstance(part, Statement)]

    @property
    def observation(self):
        return next((p for p in self.parts if isinstance(p, Observation)), None)

    @property
    def variables(self):
        """The names of the sites and of the results of statements."""
        return [p.target for p in self.parts if not isinstance(p, Observation)]

    def site(self, name):
        return next(site for site in self.sites if site.target == name)

    def plus(self, part):
        return Program((*self.parts, part))

    def without(self, part):
        """The program without a part, and without all that needs it."""
        gone, kept = {part.target}, []
        for other in self.parts:
            if other is part or gone & names_read(other):
                gone.add(other.target)
            else:
                kept.append(other)
        return Program(tuple(kept))


def names_read(part):
    """The variables that a part reads."""
    text = " ".join([*part.arguments.values(), getattr(part, "wrapper", "")])
    return set(re.findall(r"\b[zv]\d+\b", text))
