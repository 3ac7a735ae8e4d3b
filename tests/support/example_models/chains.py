"""Chains: states that follow one another, as loops and as scans."""

import numpy as np

from example_models.entry import Entry

STAY_2 = np.array([[0.85, 0.15], [0.3, 0.7]])
STAY_3 = np.array([[0.7, 0.2, 0.1], [0.15, 0.75, 0.1], [0.25, 0.15, 0.6]])


def _rng(seed):
    return np.random.default_rng(seed)


def _tables(rng, *shape):
    """Uneven conditional probabilities along the last axis, none of them tiny."""
    return 0.85 * rng.dirichlet(np.ones(shape[-1]), shape[:-1]) + 0.15 / shape[-1]


def _walks(rng, trans, n, steps):
    """Draw n state sequences that start before the first step, in state 0."""
    x, columns = np.zeros(n, int), []
    for _ in range(steps):
        x = np.array([rng.choice(len(trans), p=trans[i]) for i in x])
        columns.append(x)
    return np.stack(columns, axis=1)


def _readings():
    """Twelve readings of one chain of three states."""
    rng, locs = _rng(0), np.array([-1.5, 0.5, 2.5])
    x = _walks(rng, STAY_3, 1, 12)[0]
    return locs[x] + 0.6 * rng.normal(size=12), STAY_3, locs


def _tones():
    """Six sequences of at most ten chords of four tones, of different lengths."""
    rng = _rng(1)
    x = _walks(rng, STAY_3, 6, 10)
    probs_y = np.array(
        [[0.9, 0.2, 0.1, 0.4], [0.2, 0.8, 0.7, 0.1], [0.1, 0.3, 0.9, 0.9]]
    )
    sequences = (rng.random((6, 10, 4)) < probs_y[x]).astype(float)
    return sequences, np.array([10, 7, 10, 4, 9, 6]), STAY_3, probs_y


def _second_order():
    """Five sequences of eight readings whose states look back two steps."""
    rng, locs = _rng(2), np.array([-2.0, 0.5, 1.5])
    trans = _tables(rng, 3, 3, 3)
    before, x, data = np.zeros(5, int), np.zeros(5, int), []
    for _ in range(8):
        drawn = [rng.choice(3, p=trans[i, j]) for i, j in zip(before, x, strict=True)]
        before, x = x, np.array(drawn)
        data.append(locs[x] + 0.7 * rng.normal(size=5))
    return np.stack(data, axis=1), trans, locs


def _two_chains():
    """Five sequences of seven chords, each chord made by two chains together."""
    rng = _rng(3)
    probs_y = rng.uniform(0.05, 0.95, size=(2, 3, 4))
    w, x = _walks(rng, STAY_2, 5, 7), _walks(rng, STAY_3, 5, 7)
    sequences = (rng.random((5, 7, 4)) < probs_y[w, x]).astype(float)
    return sequences, STAY_2, STAY_3, probs_y


def _symbols():
    """Six sequences of eight symbols, each drawn given the state and the last one."""
    rng = _rng(4)
    emissions = _tables(rng, 3, 4, 4)
    x, y = _walks(rng, STAY_3, 6, 8), np.zeros((6, 8), int)
    last = np.zeros(6, int)
    for t in range(8):
        for i in range(6):
            y[i, t] = rng.choice(4, p=emissions[x[i, t], last[i]])
        last = y[:, t]
    return y, STAY_3, emissions


def _long_chain():
    """A hundred readings of a two-valued state that seldom changes."""
    rng = _rng(5)
    rise, locs = np.array([0.08, 0.85]), np.array([-0.6, 1.2])
    x = _walks(rng, np.stack([1 - rise, rise], axis=-1), 1, 100)[0]
    return locs[x] + 0.9 * rng.normal(size=100), rise, locs


def _captures():
    """Fifteen animals that live on with probability 0.8, each caught at least once."""
    rng = _rng(6)
    alive, rows = np.ones(15, int), []
    first = np.arange(15) % 3
    for t in range(6):
        alive = np.where(t > first, alive * (rng.random(15) < 0.8), alive)
        rows.append(alive * (rng.random(15) < 0.6) * (t > first) + (t == first))
    return (np.stack(rows, axis=1).astype(float),)


def _two_places():
    """Where twelve animals are seen in six seasons: nowhere, at place 1, at place 2."""
    rng = _rng(7)
    moves = np.array([[0.6, 0.25, 0.15], [0.2, 0.7, 0.1], [0.0, 0.0, 1.0]])
    seen = np.array([[0.4, 0.6, 0.0], [0.3, 0.0, 0.7], [1.0, 0.0, 0.0]])
    x = start = np.array([0, 1] * 6)
    records = []
    for _ in range(6):
        x = np.array([rng.choice(3, p=moves[i]) for i in x])
        records.append([rng.choice(3, p=seen[i]) for i in x])
    return np.array(records).T, start, moves, seen


def _arrivals():
    """Captures of twelve animals that arrive, stay for a while and leave for good."""
    rng = _rng(8)
    arrive = np.array([0.5, 0.4, 0.3, 0.3, 0.2, 0.1])
    x, rows = np.zeros(12, int), []
    for t in range(6):
        u = rng.random(12)
        x = np.where(x == 0, u < arrive[t], np.where(x == 1, 1 + (u < 0.2), 2))
        rows.append((x == 1) * (rng.random(12) < 0.7))
    return np.stack(rows, axis=1).astype(float), arrive


def _herds():
    """Steps of four animals in each of three herds, at five times, some unseen."""
    rng = _rng(9)
    herd_effects, own_effects = (
        rng.normal(size=(2, 3, 3)),
        0.7 * rng.normal(size=(2, 3, 3)),
    )
    slopes = 0.5 * rng.normal(size=(3, 3))
    weather, age = rng.normal(size=5), rng.normal(size=(4, 3))
    steps = rng.gamma(2.0, np.array([0.3, 1.0, 3.0])[rng.integers(3, size=(5, 4, 3))])
    seen = rng.random((5, 4, 3)) < 0.85
    return steps, seen, age, weather, herd_effects, own_effects, slopes


def _switching_line():
    """Ten readings of a motion in the plane: one mode turns it, the other stops it."""
    rng = _rng(10)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    motions, noise = np.stack([turn, 0.5 * np.eye(2)]), np.array([0.2, 0.5])
    modes = _walks(rng, STAY_2, 1, 10)[0]
    z, data = np.array([1.5, 0.0]), []
    for s in modes:
        z = motions[s] @ z + noise[s] * rng.normal(size=2)
        data.append(z[0] + 0.3 * rng.normal())
    return np.array(data), STAY_2, motions, noise


def _segments():
    """Five segments of eight points, each on one of two lines."""
    rng = _rng(11)
    x, r = rng.uniform(-1, 2, size=(5, 8)), np.array([0, 0, 1, 1, 0])[:, None]
    lines = np.where(r == 0, 0.5 + 1.2 * x, 2.0 - 0.8 * x)
    return x, lines + np.where(r == 0, 0.3, 0.6) * rng.normal(size=(5, 8)), STAY_2


def _courses():
    """Six patients with up to five readings, and an outcome after the last."""
    rng, effects = _rng(12), np.array([-1.0, 0.5, 3.0])
    lengths, x = np.array([5, 3, 5, 2, 4, 3]), _walks(rng, STAY_3, 6, 5)
    readings = effects[x] + 0.8 * rng.normal(size=(6, 5))
    last = x[np.arange(6), lengths - 1]
    outcomes = effects[last] + 0.4 * rng.normal(size=6)
    return readings, lengths, outcomes, STAY_3, effects


def _sites():
    """Four visits to each of twenty sites, of which half are occupied."""
    rng = _rng(13)
    cover, effort = rng.normal(size=20), rng.uniform(0.5, 1.5, size=(20, 4))
    z = rng.random(20) < 1 / (1 + np.exp(-1.2 * cover))
    p = 1 - np.exp(-0.8 * effort)
    detections = z[:, None] & (rng.random((20, 4)) < p)
    return detections.astype(float), cover, effort


def _few_numbers():
    """Twelve numbers from three components."""
    rng, locs = _rng(14), np.array([-2.0, 0.5, 2.5])
    z = rng.choice(3, size=12, p=[0.5, 0.3, 0.2])
    return locs[z] + 0.5 * rng.normal(size=12), np.array([0.5, 0.3, 0.2]), locs


def _crossed_states():
    """Twenty numbers whose place is in a table of two states by three."""
    rng, table = _rng(15), np.array([[-2.0, 0.0, 1.5], [0.5, 3.0, -1.0]])
    e, z = (
        rng.choice(2, size=20, p=[0.7, 0.3]),
        rng.choice(3, size=20, p=[0.5, 0.2, 0.3]),
    )
    return table[e, z] + 0.5 * rng.normal(size=20), table


def _shapes():
    """Ten readings of the square of time, with a trend or without."""
    rng, times = _rng(16), np.linspace(-1.0, 2.0, 10)
    return times, times**2 + 0.5 * rng.normal(size=10), 1


ENTRIES = (
    Entry("hmm_loop", _readings, 12),
    Entry("hmm_markov", _tones, 46, plates=2),
    Entry("hmm_order_2", _second_order, 40),
    Entry("factorial_hmm", _two_chains, 35, plates=2),
    Entry("autoregressive_hmm", _symbols, 48),
    Entry("chain_of_100", _long_chain, 100),
    Entry("capture_recapture", _captures, 90),
    Entry("multi_state", _two_places, 72),
    Entry("jolly_seber", _arrivals, 72, broadcasts=False),
    Entry("mixed_effects_hmm", _herds, 60, plates=2, broadcasts=False),
    Entry("switching_linear", _switching_line, 10),
    Entry("switching_regression", _segments, 40, broadcasts=False),
    Entry("regime_chain_masked_step", _courses, 28),
    Entry("occupancy", _sites, 80, broadcasts=False),
    Entry("sequential_plate", _few_numbers, 12, broadcasts=False),
    Entry("enumerated_beside", _crossed_states, 20, enumerated=("e",)),
    # Pyro has no scan. Each of these is the model of a loop above: see SCANS.
    Entry("hmm_scan", _tones, 46, plates=2, hosts=("numpyro",)),
    Entry("hmm_order_2_scan", _second_order, 40, hosts=("numpyro",)),
    Entry("factorial_hmm_scan", _two_chains, 35, plates=2, hosts=("numpyro",)),
    Entry("autoregressive_hmm_scan", _symbols, 48, hosts=("numpyro",)),
    Entry("chain_of_100_scan", _long_chain, 100, hosts=("numpyro",)),
    Entry("capture_recapture_scan", _captures, 90, hosts=("numpyro",)),
    Entry("multi_state_scan", _two_places, 72, hosts=("numpyro",)),
    Entry("switching_linear_scan", _switching_line, 10, hosts=("numpyro",)),
    Entry("masked_step_scan", _courses, 28, hosts=("numpyro",)),
    # Pyro programs branch by the host language, on values that are known.
    Entry("cond_branch", _shapes, 10, hosts=("numpyro",)),
    Entry("switch_branch", _shapes, 10, hosts=("numpyro",)),
)

# A scan stacks the sites that the loop numbers, x_0, x_1, ...: scan -> loop.
SCANS = {
    "hmm_scan": "hmm_markov",
    "hmm_order_2_scan": "hmm_order_2",
    "factorial_hmm_scan": "factorial_hmm",
    "autoregressive_hmm_scan": "autoregressive_hmm",
    "chain_of_100_scan": "chain_of_100",
    "capture_recapture_scan": "capture_recapture",
    "multi_state_scan": "multi_state",
    "switching_linear_scan": "switching_linear",
    "masked_step_scan": "regime_chain_masked_step",
}
