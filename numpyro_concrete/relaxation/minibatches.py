"""Plates that take a subsample: a program and its guide are to have the same rows.

NumPyro draws new rows where a program opens a plate again. Its `TraceEnum_ELBO` does
not record plates, so that a model draws other rows than its guide: local parameters of
some rows would meet the data of others. A program of ours keeps the rows of its plates,
and notes those of a guide at the sites in its plates, where the model finds them.

Counterpart: none; Pyro records the rows of plates as sites.
"""

from collections.abc import Mapping, Sequence

from jax import Array

from numpyro_concrete.relaxation.handlers import SurroundedMessenger
from numpyro_concrete.relaxation.messages import Message

# Key of `infer` at a site of a guide: rows of its subsampled plates by name.
ROWS = "_rows_of_plates"


class MinibatchMessenger(SurroundedMessenger):
    """Let a program have one set of rows, and an enumerated model those of its guide.

    Raises:
        NotImplementedError: When the program runs, by the name of a plate in which the
            guide samples, if the rows of the guide are not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, Array] = {}

    def process_message(self, msg: Message) -> None:
        is_enumerated = self.surroundings.is_enumerated
        if msg["type"] == "plate" and msg["value"] is None:
            msg["value"] = self._rows.get(msg["name"])
            if msg["value"] is None and is_enumerated:
                msg["value"] = _rows_of_guide(msg["name"], self.surroundings.traces)
        elif msg["type"] == "sample" and is_enumerated:
            names = {frame.name for frame in msg["cond_indep_stack"]}
            rows = {name: x for name, x in self._rows.items() if name in names}
            if rows:
                msg["infer"] = {**msg["infer"], ROWS: rows}

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "plate":
            size, subsample_size = msg["args"]
            if subsample_size not in (None, size):
                self._rows[msg["name"]] = msg["value"]


def _rows_of_guide(name: str, traces: Sequence[Mapping[str, Message]]) -> Array | None:
    """Return the rows of a plate in the traces that are replayed, or None."""
    sites = [site for trace in traces for site in trace.values()]
    for site in sites:
        rows = site.get("infer", {}).get(ROWS, {})
        if name in rows:
            return rows[name]
    if any(frame.name == name for x in sites for frame in x["cond_indep_stack"]):
        raise NotImplementedError(
            f"plate {name!r} takes a subsample, and NumPyro's TraceEnum_ELBO gives the "
            "model other rows of it than the guide. Use relax(guide), which makes them "
            "the same also if the guide has no site to relax"
        )
    return None
