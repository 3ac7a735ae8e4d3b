"""Chains in NumPyro: loops, and scans that carry integers."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import markov
from numpyro.handlers import mask
from numpyro.ops.indexing import Vindex


def hmm_loop(data, trans, locs):
    """One sequence, one state after another."""
    x = 0
    for t in range(len(data)):
        x = numpyro.sample(f"x_{t}", dist.Categorical(trans[x]))
        numpyro.sample(f"y_{t}", dist.Normal(locs[x], 0.6), obs=data[t])


def hmm_markov(sequences, lengths, trans, probs_y):
    """Sequences of chords, of different lengths: states by sequence, bits by tone."""
    tones = numpyro.plate("tones", sequences.shape[-1], dim=-1)
    with numpyro.plate("sequences", len(sequences), dim=-2):
        x = 0
        for t in markov(range(sequences.shape[1])):
            with mask(mask=(t < lengths)[:, None]):
                x = numpyro.sample(f"x_{t}", dist.Categorical(trans[x]))
                with tones:
                    likelihood = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    numpyro.sample(f"y_{t}", likelihood, obs=sequences[:, t])


def hmm_scan(sequences, lengths, trans, probs_y):
    """The model of hmm_markov; the scan counts the steps itself."""

    def step(carry, y):
        x, t = carry
        sequences_plate = numpyro.plate("sequences", len(sequences), dim=-2)
        with sequences_plate, mask(mask=(t < lengths)[:, None]):
            x = numpyro.sample("x", dist.Categorical(trans[x]))
            with numpyro.plate("tones", sequences.shape[-1], dim=-1):
                numpyro.sample("y", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=y)
        return (x, t + 1), None

    scan(step, (jnp.zeros((len(sequences), 1), int), 0), sequences.swapaxes(0, 1))


def hmm_order_2(data, trans, locs):
    """States that look back two steps."""
    with numpyro.plate("sequences", len(data), dim=-1):
        x_prev = x_curr = jnp.zeros(len(data), int)
        for t in range(data.shape[1]):
            prior = dist.Categorical(Vindex(trans)[x_prev, x_curr])
            x_prev, x_curr = x_curr, numpyro.sample(f"x_{t}", prior)
            numpyro.sample(f"y_{t}", dist.Normal(locs[x_curr], 0.7), obs=data[:, t])


def hmm_order_2_scan(data, trans, locs):
    """The model of hmm_order_2; the carry holds two states."""

    def step(carry, y):
        x_prev, x_curr = carry
        with numpyro.plate("sequences", len(data), dim=-1):
            prior = dist.Categorical(probs=Vindex(trans)[x_prev, x_curr])
            x = numpyro.sample("x", prior)
            numpyro.sample("y", dist.Normal(locs[x], 0.7), obs=y)
        return (x_curr, x), None

    zero = jnp.zeros(len(data), int)
    scan(step, (zero, zero), data.T)


def factorial_hmm(sequences, trans_w, trans_x, probs_y):
    """Two chains apart, which choose the tones of a chord together."""
    tones_plate = numpyro.plate("tones", sequences.shape[-1], dim=-1)
    with numpyro.plate("sequences", len(sequences), dim=-2):
        w = x = jnp.zeros((len(sequences), 1), int)
        for t in range(sequences.shape[1]):
            w = numpyro.sample(f"w_{t}", dist.Categorical(trans_w[w]))
            x = numpyro.sample(f"x_{t}", dist.Categorical(trans_x[x]))
            with tones_plate as tones:
                likelihood = dist.Bernoulli(Vindex(probs_y)[w, x, tones])
                numpyro.sample(f"y_{t}", likelihood, obs=sequences[:, t])


def factorial_hmm_scan(sequences, trans_w, trans_x, probs_y):
    """The model of factorial_hmm; the carry is a dictionary."""

    def step(carry, y):
        with numpyro.plate("sequences", len(sequences), dim=-2):
            w = numpyro.sample("w", dist.Categorical(trans_w[carry["w"]]))
            x = numpyro.sample("x", dist.Categorical(trans_x[carry["x"]]))
            with numpyro.plate("tones", sequences.shape[-1], dim=-1):
                chord = probs_y[w.squeeze(-1), x.squeeze(-1)]
                numpyro.sample("y", dist.Bernoulli(chord), obs=y)
        return {"w": w, "x": x}, None

    zero = jnp.zeros((len(sequences), 1), int)
    scan(step, {"w": zero, "x": zero}, jnp.swapaxes(sequences, 0, 1))


def autoregressive_hmm(sequences, trans, emissions):
    """A symbol depends on the state and on the symbol before it."""
    with numpyro.plate("sequences", len(sequences), dim=-1):
        x = y = jnp.zeros(len(sequences), int)
        for t in range(sequences.shape[1]):
            x = numpyro.sample(f"x_{t}", dist.Categorical(trans[x]))
            likelihood = dist.Categorical(Vindex(emissions)[x, y])
            y = numpyro.sample(f"y_{t}", likelihood, obs=sequences[:, t])


def autoregressive_hmm_scan(sequences, trans, emissions):
    """The model of autoregressive_hmm; the carry mixes latent and observed."""

    def step(carry, y):
        x, last = carry
        with numpyro.plate("sequences", len(sequences), dim=-1):
            x = numpyro.sample("x", dist.Categorical(trans[x]))
            numpyro.sample("y", dist.Categorical(emissions[x, last]), obs=y)
        return (x, y), None

    zero = jnp.zeros(len(sequences), int)
    scan(step, (zero, zero), sequences.T)


def chain_of_100(data, rise, locs):
    """A long chain of single bits."""
    x = 0
    for t in range(len(data)):
        x = numpyro.sample(f"x_{t}", dist.Bernoulli(rise[x]))
        numpyro.sample(f"y_{t}", dist.Normal(locs[x], 0.9), obs=data[t])


def chain_of_100_scan(data, rise, locs):
    """The model of chain_of_100; the states come back stacked."""

    def step(x, y):
        x = numpyro.sample("x", dist.Bernoulli(rise[x]))
        numpyro.sample("y", dist.Normal(locs[x], 0.9), obs=y)
        return x, x

    _, x = scan(step, 0, data)
    numpyro.deterministic("levels", locs[x])


def capture_recapture(captures):
    """Animals die for good, and are not seen dead; a first capture is given."""
    phi = numpyro.sample("phi", dist.Beta(4.0, 2.0))
    p = numpyro.sample("p", dist.Beta(3.0, 2.0))
    entered = captures.cumsum(-1) > 0
    with numpyro.plate("animals", len(captures), dim=-1):
        z = jnp.zeros(len(captures), int)
        marked = jnp.zeros(len(captures), bool)
        for t in range(captures.shape[1]):
            with mask(mask=entered[:, t]):
                alive = marked * phi * z + ~marked
                z = numpyro.sample(f"z_{t}", dist.Bernoulli(alive))
                with mask(mask=marked):
                    seen = dist.Bernoulli(p * z)
                    numpyro.sample(f"y_{t}", seen, obs=captures[:, t])
            marked = entered[:, t]


def capture_recapture_scan(captures):
    """The model of capture_recapture; the carry holds who was marked."""
    phi = numpyro.sample("phi", dist.Beta(4.0, 2.0))
    p = numpyro.sample("p", dist.Beta(3.0, 2.0))

    def step(carry, y):
        z, marked = carry
        entered = marked | (y > 0)
        animals = numpyro.plate("animals", len(captures), dim=-1)
        with animals, mask(mask=entered):
            alive = jnp.where(marked, phi * z, 1.0)
            z = numpyro.sample("z", dist.Bernoulli(probs=alive))
            with mask(mask=marked):
                numpyro.sample("y", dist.Bernoulli(probs=p * z), obs=y)
        return (z, entered), None

    n = len(captures)
    scan(step, (jnp.zeros(n, int), jnp.zeros(n, bool)), captures.T)


def multi_state(records, start, moves, seen):
    """Animals move between two places and a state that none comes back from."""
    with numpyro.plate("animals", len(records), dim=-1):
        x = start
        for t in range(records.shape[1]):
            x = numpyro.sample(f"x_{t}", dist.Categorical(moves[x]))
            numpyro.sample(f"y_{t}", dist.Categorical(seen[x]), obs=records[:, t])


def multi_state_scan(records, start, moves, seen):
    """The model of multi_state; one probability is cut out of the table by slices."""

    def step(x, y):
        with numpyro.plate("animals", len(records), dim=-1):
            x = numpyro.sample("x", dist.Categorical(moves[x, :]))
            numpyro.sample("y", dist.Categorical(jnp.take(seen, x, axis=0)), obs=y)
        return x, None

    scan(step, start, records.T)


def jolly_seber(captures, arrive):
    """Animals arrive, stay for a while and leave: no state comes twice."""
    phi = numpyro.sample("phi", dist.Beta(4.0, 2.0))
    p = numpyro.sample("p", dist.Beta(4.0, 2.0))
    seen = jnp.array([0.0, p, 0.0])
    with numpyro.plate("animals", len(captures), dim=-1):
        x = jnp.zeros(len(captures), int)
        for t in range(captures.shape[1]):
            arriving = [1 - arrive[t], arrive[t], 0.0]
            moves = jnp.array([arriving, [0.0, phi, 1 - phi], [0.0, 0.0, 1.0]])
            x = numpyro.sample(f"x_{t}", dist.Categorical(moves[x]))
            numpyro.sample(f"y_{t}", dist.Bernoulli(seen[x]), obs=captures[:, t])


def mixed_effects_hmm(steps, seen, age, weather, herd_effects, own_effects, slopes):
    """Classes of herds and of animals shift the moves between the states."""
    shares = numpyro.sample("herd_shares", dist.Dirichlet(jnp.array([2.0, 3.0])))
    own_shares = numpyro.sample("own_shares", dist.Dirichlet(jnp.array([3.0, 1.5])))
    prior = dist.Gamma(jnp.array([6.0, 3.0, 1.5]), 1.0).to_event(1)
    rates = numpyro.sample("rates", prior)
    with numpyro.plate("herds", steps.shape[-1], dim=-1):
        e_g = numpyro.sample("e_g", dist.Categorical(shares))
        with numpyro.plate("animals", steps.shape[-2], dim=-2):
            e_i = numpyro.sample("e_i", dist.Categorical(own_shares))
            effects = herd_effects[e_g] + own_effects[e_i]
            y = jnp.zeros(steps.shape[1:], int)
            for t in range(len(steps)):
                drift = (age + weather[t])[..., None, None] * slopes
                logits = Vindex(effects + drift)[..., y, :]
                with mask(mask=seen[t]):
                    y = numpyro.sample(f"y_{t}", dist.Categorical(logits=logits))
                    gait = dist.Gamma(2.0, rates[y])
                    numpyro.sample(f"step_{t}", gait, obs=steps[t])


def switching_linear(data, trans, motions, noise):
    """A mode chooses how a point in the plane moves, and how noisily."""
    s, z = 0, jnp.array([1.5, 0.0])
    for t in range(len(data)):
        s = numpyro.sample(f"s_{t}", dist.Categorical(trans[s]))
        motion = dist.Normal(motions[s] @ z, noise[s]).to_event(1)
        z = numpyro.sample(f"z_{t}", motion)
        numpyro.sample(f"y_{t}", dist.Normal(z[0], 0.3), obs=data[t])


def switching_linear_scan(data, trans, motions, noise):
    """The model of switching_linear; the carry holds an integer and a vector."""

    def step(carry, y):
        s, z = carry
        s = numpyro.sample("s", dist.Categorical(trans[s]))
        motion = dist.Normal(motions[s] @ z, noise[s]).to_event(1)
        z = numpyro.sample("z", motion)
        numpyro.sample("y", dist.Normal(z[0], 0.3), obs=y)
        return (s, z), None

    scan(step, (0, jnp.array([1.5, 0.0])), data)


def switching_regression(x, y, trans):
    """Each segment takes one of two lines, in turn."""
    a = numpyro.sample("a", dist.Normal(jnp.array([0.0, 2.0]), 1.0).to_event(1))
    b = numpyro.sample("b", dist.Normal(jnp.array([1.0, -0.5]), 0.8).to_event(1))
    widths = dist.LogNormal(jnp.array([-1.0, -0.5]), 0.3).to_event(1)
    sigma = numpyro.sample("sigma", widths)
    r = 0
    for i in range(len(x)):
        r = numpyro.sample(f"r_{i}", dist.Categorical(trans[r]))
        with numpyro.plate(f"rows_{i}", x.shape[1], dim=-1):
            line = a[r] + b[r] * x[i]
            numpyro.sample(f"y_{i}", dist.Normal(line, sigma[r]), obs=y[i])


def regime_chain_masked_step(readings, lengths, outcomes, trans, effects):
    """States stop with their sequence, and the last one decides the outcome."""
    with numpyro.plate("patients", len(readings), dim=-1):
        x = jnp.zeros(len(readings), int)
        for t in range(readings.shape[1]):
            with mask(mask=t < lengths):
                new = numpyro.sample(f"x_{t}", dist.Categorical(trans[x]))
                x = jnp.where(t < lengths, new, x)
                reading = dist.Normal(effects[x], 0.8)
                numpyro.sample(f"y_{t}", reading, obs=readings[:, t])
        numpyro.sample("outcome", dist.Normal(effects[x], 0.4), obs=outcomes)


def masked_step_scan(readings, lengths, outcomes, trans, effects):
    """The model of regime_chain_masked_step; the last carry is used after the scan."""

    def step(x, xs):
        t, y = xs
        running = t < lengths
        with numpyro.plate("patients", len(readings), dim=-1), mask(mask=running):
            new = numpyro.sample("x", dist.Categorical(trans[x]))
            x = jnp.where(running, new, x)
            numpyro.sample("y", dist.Normal(effects[x], 0.8), obs=y)
        return x, None

    steps = jnp.arange(readings.shape[1]), readings.T
    x, _ = scan(step, jnp.zeros(len(readings), int), steps)
    with numpyro.plate("patients", len(readings), dim=-1):
        numpyro.sample("outcome", dist.Normal(effects[x], 0.4), obs=outcomes)


def occupancy(detections, cover, effort):
    """Nothing is ever detected at a site that is not occupied."""
    a = numpyro.sample("a", dist.Normal(jnp.array([0.2, 1.0]), 0.7).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(4.0, 5.0))
    with numpyro.plate("sites", len(cover), dim=-1):
        z = numpyro.sample("z", dist.Bernoulli(logits=a[0] + a[1] * cover))
        probs = jnp.expand_dims(z, -1) * (1 - jnp.exp(-rate * effort))
        numpyro.sample("y", dist.Bernoulli(probs).to_event(1), obs=detections)


def sequential_plate(data, weights, centres):
    """A mixture, one datum after another."""
    locs = numpyro.sample("locs", dist.Normal(centres, 0.5).to_event(1))
    for i in range(len(data)):
        z = numpyro.sample(f"z_{i}", dist.Categorical(weights))
        numpyro.sample(f"y_{i}", dist.Normal(locs[z], 0.5), obs=data[i])


def enumerated_beside(data, table):
    """An enumerated state and another one choose from a table together."""
    mark = {"enumerate": "parallel"}
    with numpyro.plate("data", len(data), dim=-1):
        e = numpyro.sample("e", dist.Categorical(jnp.array([0.7, 0.3])), infer=mark)
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
        numpyro.sample("y", dist.Normal(Vindex(table)[e, z], 0.5), obs=data)


def cond_branch(times, data, trend):
    """A known flag chooses between two uses of a latent state."""
    slope = numpyro.sample("slope", dist.Normal(0.5, 1.0))
    levels = jnp.array([-0.5, 0.5, 2.0])
    with numpyro.plate("data", len(data), dim=-1):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))

        def with_trend(t):
            return levels[z] + slope * t

        loc = lax.cond(trend > 0, with_trend, lambda t: levels[z] + 0 * t, times)
        numpyro.sample("y", dist.Normal(loc, 0.6), obs=data)


def switch_branch(times, data, trend):
    """A latent state of the whole data set chooses the shape of the curve."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.3))
    z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.2, 0.3])))
    branches = [lambda t: trend * t, jnp.square, jax.nn.relu]
    loc = scale * lax.switch(z, branches, times)
    with numpyro.plate("data", len(data), dim=-1):
        numpyro.sample("y", dist.Normal(loc, 0.6), obs=data)
