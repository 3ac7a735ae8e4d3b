"""A sweep over the functions of torch and of JAX: what each does to soft integers.

`calls.py` is a catalog of argument lists. They are tried on plain integers first, and a
function takes part with the calls that it accepts. `sweep.py` makes each of these calls
on soft integers and compares the result with enumeration. `on_pyro.py` and
`on_numpyro.py` list the functions, `table.py` reads and writes the committed tables,
`api_table_pyro.csv` and `api_table_numpyro.csv` beside this folder. `make api-table`
makes the tables anew.
"""
