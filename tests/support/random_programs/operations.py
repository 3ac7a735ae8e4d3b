"""The operations of random programs: one line each.

A line is Python source with slots in braces. `xp` is torch or jax.numpy; where the two
spell an operation differently, NumPyro's spelling follows after `||`. A line that
begins with `~` is linear in its variables, so that it keeps means exact.

Slots: {v} a variable, {w} another or the same, {x} and {y} a variable or a constant,
{b} a boolean variable, {i} an integer variable, {f} a variable of real numbers, {k} a
small integer, {r} a real number, {d} an axis of {v}, {t} a table of reals with a row
for every value of {i}, {q} such a table of integers, {n} the number of these rows, {m}
a mask of the shape of {v}, {o} positions along the first axis of {v}.
"""

from dataclasses import dataclass

_LINES = """
~ {v} + {x}
~ {x} + {v}
~ {v} - {x}
~ {x} - {v}
~ -{v}
~ {v} * {k}
~ {r} * {v}
{v} * {x}
{x} * {v}
{v} * {w}
{v} / {x}
{x} / {v}
! {v} // {k}
! {v} // {x}
! {v} % {k}
! {v} % {x}
{v} ** {k}
{r} ** {v}
abs({v})
~ +{v}
{b} & {w}
{b} | {w}
{b} ^ {w}
~{b}
{v} == {x}
{v} != {x}
{v} < {x}
{v} <= {x}
{v} > {x}
{x} >= {v}
({v} == {k}) | ({w} == {x})
({v} > {k}) & ({w} < {x})
({v} == {k}).any(-1)
({v} > {k}).all(-1)
({v} == {w}).any()
{v}[..., None] == array([0, 2], "int64")
({v}[..., None] == array([0, 2], "int64")).any(-1)
xp.where({b}, {x}, {y})
xp.where({v} == {k}, {x}, {y})
xp.where({v} > {r}, {w}, {y})
xp.where({m}, {v}, {x})
~ xp.where({m}, {v}, {k})
xp.maximum({v}, {w})
xp.minimum({v}, {w})
xp.clamp({v}, 0, {k}) || xp.clip({v}, 0, {k})
{v}.clamp(max={k}) || {v}.clip(max={k})
! xp.remainder({v}, {k})
! xp.floor_divide({v}, {k})
! xp.sign({v})
xp.square({v})
! xp.floor({v})
! xp.round({v})
xp.exp({v})
xp.log({v})
xp.sqrt({v})
xp.log1p({v})
xp.tanh({v})
xp.sigmoid({v}) || jax.nn.sigmoid({v})
xp.relu({v}) || jax.nn.relu({v})
xp.lgamma({v} + 1) || jax.scipy.special.gammaln({v} + 1)
xp.logical_not({v})
xp.logical_and({v}, {w})
xp.logical_or({v}, {x})
xp.isclose({v} * 1.0, array({r}))
~ {v}.double() || {v}.astype("float64")
~ {v}.float() || {v}.astype("float32")
{v}.long() || {v}.astype("int64")
{v}.int() || {v}.astype("int32")
{v}.bool() || {v}.astype(bool)
~ {v}.to(xp.float64) || {v}.astype(float)
~ 1.0 * {v}
~ {v} * 1.0
~ {v} + 0.0
~ {v}.sum()
~ {v}.sum({d})
~ {v}.mean({d})
{v}.prod({d})
~ {v}.cumsum({d})
{v}.max() || {v}.max()
{v}.amax({d}) || {v}.max({d})
{v}.argmax({d})
xp.sort({v}, {d})[0] || xp.sort({v}, {d})
{v}.any()
{v}.all()
xp.count_nonzero({v})
~ {v} @ {R}
~ xp.stack([{v}, {w}])
~ xp.stack([{v}, {w}], -1)
~ xp.stack([{v}, {v} + 1])
xp.stack([{v}, array({k})])
~ xp.cat([{v}, {w}]) || xp.concatenate([{v}, {w}])
~ {v}.expand(2, *{v}.shape) || xp.broadcast_to({v}, (2, *{v}.shape))
{v} + {v}.expand(2, *{v}.shape) || {v} + xp.broadcast_to({v}, (2, *{v}.shape))
{v} * {v}.expand(2, *{v}.shape) || {v} * xp.broadcast_to({v}, (2, *{v}.shape))
~ {v}.unsqueeze({d}) || xp.expand_dims({v}, {d})
~ {v}[None]
~ {v}[..., None]
~ {v}.reshape(-1)
~ {v}.reshape(1, -1)
~ {v}.flip(0) || xp.flip({v}, 0)
~ xp.roll({v}, 1, {d})
~ {v}.T || {v}.T
~ {v}[0]
~ {v}[-1:]
~ {v}[..., -1]
~ {v}[{o}]
{v}[:, None] * {w}
{v}[:, None] == {w}
{v}[1:] == {v}[:-1]
{v}[1:] - {v}[:-1]
{v} == {v}[..., :1]
~ xp.tile({v}, (2,))
~ xp.repeat_interleave({v}, 2, 0) || xp.repeat({v}, 2, 0)
{t}[{i}]
{t}[{i}]
{t}[{i}, 1]
{t}[{i}][..., 0]
{t}[{i} - 1]
{q}[{i}]
{q}[{i}]
{t}.index_select(0, {i}) || xp.take({t}, {i}, 0)
{t}.gather(0, {i}) || xp.take_along_axis({t}, {i}, 0)
xp.take({t}, {i})
{t}[({v} + {w}).long()] || {t}[({v} + {w}).astype(int)]
{t}[xp.where({b}, {i}, 0)]
{t}[xp.stack([{i}, {i}])]
F.one_hot({i}, {n}) || jax.nn.one_hot({i}, {n})
F.embedding({i}, {t}) || xp.take({t}, {i}, axis=0)
xp.zeros({n}).scatter(0, {i}, 1.0) || xp.zeros({n}).at[{i}].set(1.0)
xp.bincount({i}, minlength={n}) || xp.bincount({i}, length={n})
xp.searchsorted(array([0.5, 1.5]), {v})
xp.bucketize({v}, array([0.5, 1.5])) || xp.digitize({v}, array([0.5, 1.5]))
{v}.clone() || xp.copy({v})
~ {v}.detach() || jax.lax.stop_gradient({v})
F.pad({v}, (1, 0)) || xp.pad({v}, [(0, 0)] * ({v}.ndim - 1) + [(1, 0)])
xp.logsumexp({f}, {d}) || jax.scipy.special.logsumexp({f}, {d})
xp.softmax({f}, {d}) || jax.nn.softmax({f}, {d})
xp.einsum("...i,...i->...", {v}, {w})
2 * {v} - 1
1 - {v}
1.0 - {v}
! ({v} + {w}) % 2
{v} * (1 - {v})
"""


@dataclass(frozen=True)
class Operation:
    """An operation in the spelling of each backend."""

    pyro: str
    numpyro: str
    is_linear: bool = False
    rounds: bool = False

    def spelled(self, backend):
        return getattr(self, backend)


def _operation(line):
    # A tilde with a space is the mark; one without is Python's own.
    is_linear, rounds = line.startswith("~ "), line.startswith("! ")
    spellings = line.removeprefix("~ ").removeprefix("! ").split(" || ")
    return Operation(spellings[0], spellings[-1], is_linear, rounds)


OPERATIONS = [_operation(line) for line in _LINES.strip().splitlines()]
