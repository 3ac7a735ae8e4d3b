"""What a relaxed program owes to the discrete one, inside of the simplex.

At corners every result is the discrete program's. Inside it depends on the result:

- `WHOLE`: made of whole numbers by whole numbers. It stays soft, and its mean is the
  mean of the discrete results.
- `MEAN`: reals made of whole numbers, or a linear function of such means. Its mean is
  that of the discrete results.
- `ROUNDED`: a comparison, a cast or a rounding of reals. It is either worked out on the
  values behind the reals, with the mean of the discrete results, or unsupported.
- `FREE`: any other function of means, whose value inside is part of the relaxation.
- `ONE_HOT`: what a program computes of one-hot sites, for which it receives reals.
"""

from enum import Enum

from random_programs.program import Site, Statement, names_read


class Promise(Enum):
    """What holds for the mean of a variable inside of the simplex."""

    WHOLE = "inside"
    MEAN = "inside, of reals"
    ROUNDED = "inside, of rounded reals"
    FREE = "free"
    ONE_HOT = "one-hot"

    @property
    def is_exact(self):
        return self not in (Promise.FREE, Promise.ONE_HOT)


def promises_of(discrete):
    """The promise for each variable, by name."""
    found = {}
    for part in discrete.program.parts:
        if isinstance(part, Site):
            is_one_hot = part.family.is_one_hot
            found[part.target] = Promise.ONE_HOT if is_one_hot else Promise.WHOLE
        elif isinstance(part, Statement):
            operands = {found[name] for name in names_read(part)}
            variable = discrete.variables[part.target]
            found[part.target] = _promise(part.operation, operands, variable)
    return found


def _promise(operation, operands, variable):
    if Promise.ONE_HOT in operands:
        return Promise.ONE_HOT
    if not variable.is_finite:
        return Promise.FREE
    if operands <= {Promise.WHOLE}:
        return Promise.WHOLE if variable.is_whole else Promise.MEAN
    if operation.is_linear and operands <= {Promise.WHOLE, Promise.MEAN}:
        return Promise.MEAN
    if operation.rounds or not variable.is_real:
        return Promise.ROUNDED
    return Promise.FREE
