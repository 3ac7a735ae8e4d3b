"""The catalog of calls: the arguments of a function, as Python source.

`s`, `z`, `u` and `m` are soft: see `arguments.py`. The other names are plain arrays,
of `constants`. Words in braces are spelled differently by torch and JAX.
"""

import functools

import numpy as np

# To try another call with every function, add a line. The first that a function accepts
# are kept, so the most telling ones come first.
_CALLS = """
z
z, u
m
s
z, 2
2, z
n, z
x, z
z, x
m, 0
m, {axis}=0
m, {axis}=-1
m, 1, 0
[z, n]
[z, u], 0
mask, z, n
z == 1, z, n
z == 1, x, y
z == 1, u, 3
z, u, n
z, u, x
x, z, u
z, 0, 1
z, 0
table, z
table, 0, z
rows, 0, z
z, rows
rows, z
rows, 1, m
rows, m, 1
rows, 1, m, 2.0
rows, 1, m, square
rows, 0, z, square
m, square
square, m
m, z
m, m
z, 3
z, (2, 1)
z, (1, 2)
(2, 2), z
m, (1, 0)
m, (0, 1)
m, 0, 0, 1
z, 0, 0
z, sorted_x
sorted_x, z
sorted_n, z
z, sorted_n
z, {float}
z, 0.5
z, 0.5, 2.0
z, 2, 2
5, z
z, mask
mask, z
m, z == 1
z, [True, False]
z, None, 1
z, {axis}=0, {keep}=True
'i,i', z, x
'i,j->ij', z, u
'ij,j->i', m, z
x, y, z
x, z, y
z, x, y
lambda a: a + 1, z
lambda a: a * 0.5, z
lambda c, a: (c + a, 2 * c), s, z
0, z, [1.0, 2.0]
s, z
z, s
z, s, 0
table, s
rows, s
rows, s, 0
rows, (s, 0), (1, 2)
rows, square, (s, 0)
s, [lambda a: a + 1.0, lambda a: a * 2.0, lambda a: a - 1.0], x
s == 1, lambda a: a + 1.0, lambda a: a * 2.0, x
"""


def calls(spelling):
    """The calls in the spelling of a backend."""
    return [line.format(**spelling) for line in _CALLS.strip().splitlines()]


@functools.cache
def code_of(call):
    """A call of `f`, compiled."""
    return compile(f"f({call})", "call", "eval")


@functools.cache
def names_in(call):
    """The names in a call, those in a lambda left out."""
    return frozenset(code_of(call).co_names)


def constants():
    """Plain arrays of the calls, by name; wide enough for every index."""
    rng = np.random.default_rng(5)
    return {
        "n": np.array([1, 2]),
        "x": np.array([-1.2, 0.3]),
        "y": np.array([0.7, 0.4]),
        "mask": np.array([True, False]),
        "table": rng.normal(size=4),
        "rows": rng.normal(size=(4, 3)),
        "square": rng.normal(size=(2, 2)),
        "sorted_x": np.array([0.5, 1.0, 1.5]),
        "sorted_n": np.array([0, 1, 4]),
    }
