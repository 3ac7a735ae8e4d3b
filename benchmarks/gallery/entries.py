"""The models of the gallery, by what a method has to know of them."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.gallery import data


@dataclass(frozen=True)
class Entry:
    """A model of the gallery. Models and guides are in `on_<backend>/models.py`.

    Attributes:
        name: Name of its functions in `models.py`.
        title: What it is, for the tables.
        load: Returns its data; takes the folder of `--data` if `needs_folder`.
        num_points: Number of data points: distances are given by data point, too.
        local_runs: Model evaluations of one particle of `LocalExpectations`.
        learning_rate: Of Adam, at the first step.
        num_evaluations: Model evaluations that each method has for training.
        has_guide: Whether `models.py` has a guide for it; if not, it is `AutoConcrete`.
        can_enumerate: Whether its discrete sites can be enumerated.
        is_binary: Whether every discrete site has two values.
        learns: Whether the model has parameters, so that its evidence counts as well.
        plate: Plate of independent data points, for the multi-sample bound.
        options: Further arguments of `relax`.
        batch: Arguments of the model and the guide in training alone.
    """

    name: str
    title: str
    load: data.Loader
    num_points: int
    local_runs: int
    learning_rate: float = 0.05
    num_evaluations: int = 4000
    has_guide: bool = False
    can_enumerate: bool = False
    is_binary: bool = False
    learns: bool = True
    plate: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    batch: dict[str, Any] = field(default_factory=dict)
    needs_folder: bool = False


_MIXTURE = {"can_enumerate": True, "plate": "data"}
_AMORTIZED = {"has_guide": True, "learning_rate": 5e-3, "plate": "data"}
_AMORTIZED |= {"batch": {"batch_size": 100}}

ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "readme_mixture",
            "mixture of the README",
            data.readme,
            num_points=5,
            local_runs=2,
            learning_rate=0.1,
            num_evaluations=1000,
            **_MIXTURE,
        ),
        Entry(
            "iris_mixture",
            "iris mixture",
            data.iris,
            num_points=150,
            local_runs=3,
            **_MIXTURE,
        ),
        Entry(
            "dirichlet_process",
            "Dirichlet-process mixture",
            data.wine,
            num_points=178,
            local_runs=8,
            can_enumerate=True,
            learns=False,
        ),
        Entry(
            "spike_and_slab",
            "spike-and-slab regression",
            data.sparse_regression,
            num_points=200,
            local_runs=61,
            is_binary=True,
            learns=False,
        ),
        Entry(
            "hidden_markov",
            "hidden Markov model",
            data.hidden_chain,
            num_points=24,
            local_runs=49,
            learns=False,
        ),
        Entry(
            "factorial_chains",
            "factorial hidden Markov model",
            data.two_chains,
            num_points=16,
            local_runs=33,
            is_binary=True,
            learns=False,
        ),
        Entry(
            "topics",
            "LDA, amortized guide",
            data.documents,
            num_points=200,
            local_runs=5,
            **_AMORTIZED,
        ),
        Entry(
            "dawid_skene",
            "Dawid-Skene ratings",
            data.ratings,
            num_points=60,
            local_runs=4,
            **_MIXTURE,
        ),
        Entry(
            "capture_recapture",
            "capture-recapture",
            data.captures,
            num_points=60,
            local_runs=7,
            is_binary=True,
            plate="data",
        ),
        Entry(
            "change_point",
            "change point",
            data.accidents,
            num_points=60,
            local_runs=60,
            can_enumerate=True,
            learns=False,
        ),
        Entry(
            "zero_inflated",
            "zero-inflated counts",
            data.zero_inflated,
            num_points=150,
            local_runs=2,
            is_binary=True,
            **_MIXTURE,
        ),
        Entry(
            "latent_counts",
            "truncated latent counts",
            data.latent_counts,
            num_points=40,
            local_runs=21,
            plate="data",
            options={"truncate": 20},
        ),
        Entry(
            "decision_tree",
            "soft decision tree",
            data.tumors,
            num_points=569,
            local_runs=8,
            has_guide=True,
            learning_rate=0.02,
            is_binary=True,
            **_MIXTURE,
        ),
        Entry(
            "block_model",
            "stochastic block model",
            data.network,
            num_points=30,
            local_runs=61,
        ),
        Entry(
            "belief_net",
            "sigmoid belief net, digits",
            data.digits,
            num_points=500,
            local_runs=31,
            is_binary=True,
            **_AMORTIZED,
        ),
        Entry(
            "autoencoder",
            "categorical autoencoder, digits",
            data.digits,
            num_points=500,
            local_runs=43,
            **_AMORTIZED,
        ),
        Entry(
            "static_mnist",
            "200H~784V, static MNIST",
            data.static_mnist,
            num_points=2000,
            local_runs=201,
            is_binary=True,
            needs_folder=True,
            **_AMORTIZED,
        ),
    )
}
