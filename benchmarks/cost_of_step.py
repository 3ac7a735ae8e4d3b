"""What is the runtime of a step of SVI: `relax`, relaxed manually, and without Pyro?

Two models with batches of 64: the discrete autoencoder of the tutorials' sizes (20
variables of 4 values, 100 binary ones) and a sigmoid belief net of 200, 200 and 784
binary units. Each is written once, over a few functions that stand for its sites. These
are sample statements of discrete distributions, relaxed with `relax`; sample statements
of the log-space Concrete family (`by_hand`); or plain arrays and formulas without Pyro
or NumPyro, with the same optimizer (`plain`). Argument validation is off. The steps of
two versions take turns; a ratio is the median over pairs of blocks, with quartiles.
`relax` relative to `by_hand` is the overhead of this library, and `by_hand` relative to
`plain` is the overhead of the backend. `relax_jit` is `relax` under Pyro's
`JitTrace_ELBO`, which traces the loss once; `relax_compiled` is the loss under
`torch.compile`, after its compilations. NumPyro compiles every step.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.report import place, table, write_csv
from benchmarks.timing import calls_in, quartiles, ratios

PROGRAMS = ("autoencoder", "belief_net")
PAIRS = (
    ("relax", "by_hand"),
    ("by_hand", "plain"),
    ("relax", "plain"),
    ("relax_jit", "relax"),
    ("relax_jit", "plain"),
    ("relax_compiled", "relax"),
    ("relax_compiled", "plain"),
)
BATCH, KINDS, VALUES, STROKES, HIDDEN = 64, 20, 4, 100, 200
LEVELS, PIXELS, NET_PIXELS = 16, 64, 784
MODEL_T, GUIDE_T = 2 / 5, 2 / 3
BLOCKS, BLOCK_SECONDS = 21, 0.3
HEADER = ("program", "step", "over", "ratio", "lower_quartile", "upper_quartile")


def autoencoder(way, images):
    """The binary variables given the image, then the others given both."""
    hidden = way.tanh(way.dense("g_hidden", 2 * images / LEVELS - 1, HIDDEN))
    stroke = way.binary("stroke", way.dense("g_stroke", hidden, STROKES))
    both = way.cat([hidden, stroke])
    logits = way.dense("g_kind", both, KINDS * VALUES)
    way.one_hots("kind", logits.reshape(-1, KINDS, VALUES))


def autoencoder_model(way, images):
    """The same the other way, down to pixels of many levels."""
    kind = way.one_hots("kind", way.weight("prior", (KINDS, VALUES)))
    kind = kind.reshape(-1, KINDS * VALUES)
    logits = way.dense("stroke", way.tanh(way.dense("m_kind", kind, HIDDEN)), STROKES)
    both = way.cat([kind, way.binary("stroke", logits)])
    hidden = way.tanh(way.dense("m_hidden", both, HIDDEN))
    way.counts("pixels", way.dense("m_pixels", hidden, PIXELS), images)


def belief_net(way, images):
    """Two layers of binary units, each given the one below."""
    low = way.binary("low", way.dense("g_low", 2 * images - 1, HIDDEN))
    way.binary("high", way.dense("g_high", low, HIDDEN))


def belief_net_model(way, images):
    """Two layers of binary units, each given the one above, and the pixels."""
    high = way.binary("high", way.weight("top", (HIDDEN,)))
    low = way.binary("low", way.dense("m_low", high, HIDDEN))
    way.flags("pixels", way.dense("m_pixels", low, NET_PIXELS), images)


def run(backends: Sequence[str], out: Path) -> None:
    for backend in backends:
        module = import_module(f"benchmarks.on_{backend}.cost_of_step")
        rows = []
        for name in PROGRAMS:
            guide, model = globals()[name], globals()[f"{name}_model"]
            steps = module.steps(name, guide, model)
            calls = calls_in(steps["relax"], BLOCK_SECONDS)
            for ours, peer in PAIRS:
                if ours not in steps:
                    continue
                found = ratios(steps[ours], steps[peer], blocks=BLOCKS, calls=calls)
                rows.append([name, ours, peer, *quartiles(found)])
        write_csv(out / f"cost_of_step_{place(backend)}.csv", backend, HEADER, rows)
        table(f"Time of a step, {backend}", HEADER, rows)
