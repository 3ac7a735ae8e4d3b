"""Chains in Pyro."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex


def hmm_loop(data, trans, locs):
    """One sequence, one state after another."""
    x = 0
    for t in range(len(data)):
        x = pyro.sample(f"x_{t}", dist.Categorical(trans[x]))
        pyro.sample(f"y_{t}", dist.Normal(locs[x], 0.6), obs=data[t])


def hmm_markov(sequences, lengths, trans, probs_y):
    """Sequences of chords, of different lengths: states by sequence, bits by tone."""
    tones = pyro.plate("tones", sequences.shape[-1], dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x = 0
        for t in pyro.markov(range(sequences.shape[1])):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(trans[x]))
                with tones:
                    likelihood = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    pyro.sample(f"y_{t}", likelihood, obs=sequences[:, t])


def hmm_order_2(data, trans, locs):
    """States that look back two steps."""
    with pyro.plate("sequences", len(data), dim=-1):
        x_prev, x_curr = torch.tensor(0), torch.tensor(0)
        for t in pyro.markov(range(data.shape[1]), history=2):
            prior = dist.Categorical(Vindex(trans)[x_prev, x_curr])
            x_prev, x_curr = x_curr, pyro.sample(f"x_{t}", prior)
            pyro.sample(f"y_{t}", dist.Normal(locs[x_curr], 0.7), obs=data[:, t])


def factorial_hmm(sequences, trans_w, trans_x, probs_y):
    """Two chains apart, which choose the tones of a chord together."""
    tones_plate = pyro.plate("tones", sequences.shape[-1], dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        w = x = torch.tensor(0)
        for t in pyro.markov(range(sequences.shape[1])):
            w = pyro.sample(f"w_{t}", dist.Categorical(trans_w[w]))
            x = pyro.sample(f"x_{t}", dist.Categorical(trans_x[x]))
            with tones_plate as tones:
                likelihood = dist.Bernoulli(Vindex(probs_y)[w, x, tones])
                pyro.sample(f"y_{t}", likelihood, obs=sequences[:, t])


def autoregressive_hmm(sequences, trans, emissions):
    """A symbol depends on the state and on the symbol before it."""
    with pyro.plate("sequences", len(sequences), dim=-1):
        x, y = torch.tensor(0), torch.tensor(0)
        for t in range(sequences.shape[1]):
            x = pyro.sample(f"x_{t}", dist.Categorical(trans[x]))
            likelihood = dist.Categorical(Vindex(emissions)[x, y])
            y = pyro.sample(f"y_{t}", likelihood, obs=sequences[:, t])


def chain_of_100(data, rise, locs):
    """A long chain of single bits."""
    x = torch.tensor(0)
    for t in pyro.markov(range(len(data))):
        x = pyro.sample(f"x_{t}", dist.Bernoulli(rise[x])).long()
        pyro.sample(f"y_{t}", dist.Normal(locs[x], 0.9), obs=data[t])


def capture_recapture(captures):
    """Animals die for good, and are not seen dead; a first capture is given."""
    phi = pyro.sample("phi", dist.Beta(4.0, 2.0))
    p = pyro.sample("p", dist.Beta(3.0, 2.0))
    entered = captures.cumsum(-1) > 0
    with pyro.plate("animals", len(captures), dim=-1):
        z = torch.zeros(len(captures))
        marked = torch.zeros(len(captures), dtype=torch.bool)
        for t in pyro.markov(range(captures.shape[1])):
            with poutine.mask(mask=entered[:, t]):
                alive = marked * phi * z + ~marked
                z = pyro.sample(f"z_{t}", dist.Bernoulli(alive))
                with poutine.mask(mask=marked):
                    pyro.sample(f"y_{t}", dist.Bernoulli(p * z), obs=captures[:, t])
            marked = entered[:, t]


def multi_state(records, start, moves, seen):
    """Animals move between two places and a state that none comes back from."""
    with pyro.plate("animals", len(records), dim=-1):
        x = start
        for t in pyro.markov(range(records.shape[1])):
            x = pyro.sample(f"x_{t}", dist.Categorical(moves[x]))
            pyro.sample(f"y_{t}", dist.Categorical(seen[x]), obs=records[:, t])


def jolly_seber(captures, arrive):
    """Animals arrive, stay for a while and leave: no state comes twice."""
    phi = pyro.sample("phi", dist.Beta(4.0, 2.0))
    p = pyro.sample("p", dist.Beta(4.0, 2.0))
    none, one = torch.zeros(()), torch.ones(())
    seen = torch.stack([none, p, none])
    with pyro.plate("animals", len(captures), dim=-1):
        x = torch.zeros(len(captures), dtype=torch.long)
        for t in pyro.markov(range(captures.shape[1])):
            rows = [
                [1 - arrive[t], arrive[t], none],
                [none, phi, 1 - phi],
                [none, none, one],
            ]
            moves = torch.stack([torch.stack(row) for row in rows])
            x = pyro.sample(f"x_{t}", dist.Categorical(moves[x]))
            pyro.sample(f"y_{t}", dist.Bernoulli(seen[x]), obs=captures[:, t])


def mixed_effects_hmm(steps, seen, age, weather, herd_effects, own_effects, slopes):
    """Classes of herds and of animals shift the moves between the states."""
    shares = pyro.sample("herd_shares", dist.Dirichlet(torch.tensor([2.0, 3.0])))
    own_shares = pyro.sample("own_shares", dist.Dirichlet(torch.tensor([3.0, 1.5])))
    rates = pyro.sample(
        "rates", dist.Gamma(torch.tensor([6.0, 3.0, 1.5]), 1.0).to_event(1)
    )
    with pyro.plate("herds", steps.shape[-1], dim=-1):
        e_g = pyro.sample("e_g", dist.Categorical(shares))
        with pyro.plate("animals", steps.shape[-2], dim=-2):
            e_i = pyro.sample("e_i", dist.Categorical(own_shares))
            effects = Vindex(herd_effects)[e_g, :, :] + Vindex(own_effects)[e_i, :, :]
            y = torch.tensor(0)
            for t in pyro.markov(range(len(steps))):
                drift = (age + weather[t])[..., None, None] * slopes
                logits = Vindex(effects + drift)[..., y, :]
                with poutine.mask(mask=seen[t]):
                    y = pyro.sample(f"y_{t}", dist.Categorical(logits=logits))
                    pyro.sample(f"step_{t}", dist.Gamma(2.0, rates[y]), obs=steps[t])


def switching_linear(data, trans, motions, noise):
    """A mode chooses how a point in the plane moves, and how noisily."""
    s, z = 0, torch.tensor([1.5, 0.0])
    for t in pyro.markov(range(len(data))):
        s = pyro.sample(f"s_{t}", dist.Categorical(trans[s]))
        loc = (motions[s] @ z.unsqueeze(-1)).squeeze(-1)
        motion = dist.Normal(loc, noise[s].unsqueeze(-1)).to_event(1)
        z = pyro.sample(f"z_{t}", motion)
        pyro.sample(f"y_{t}", dist.Normal(z[..., 0], 0.3), obs=data[t])


def switching_regression(x, y, trans):
    """Each segment takes one of two lines, in turn."""
    a = pyro.sample("a", dist.Normal(torch.tensor([0.0, 2.0]), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(torch.tensor([1.0, -0.5]), 0.8).to_event(1))
    sigma = pyro.sample(
        "sigma", dist.LogNormal(torch.tensor([-1.0, -0.5]), 0.3).to_event(1)
    )
    r = 0
    for i in range(len(x)):
        r = pyro.sample(f"r_{i}", dist.Categorical(trans[r]))
        with pyro.plate(f"rows_{i}", x.shape[1], dim=-1):
            pyro.sample(f"y_{i}", dist.Normal(a[r] + b[r] * x[i], sigma[r]), obs=y[i])


def regime_chain_masked_step(readings, lengths, outcomes, trans, effects):
    """States stop with their sequence, and the last one decides the outcome."""
    with pyro.plate("patients", len(readings), dim=-1):
        x = torch.zeros(len(readings), dtype=torch.long)
        for t in range(readings.shape[1]):
            with poutine.mask(mask=t < lengths):
                new = pyro.sample(f"x_{t}", dist.Categorical(trans[x]))
                x = torch.where(t < lengths, new, x)
                pyro.sample(f"y_{t}", dist.Normal(effects[x], 0.8), obs=readings[:, t])
        pyro.sample("outcome", dist.Normal(effects[x], 0.4), obs=outcomes)


def occupancy(detections, cover, effort):
    """Nothing is ever detected at a site that is not occupied."""
    a = pyro.sample("a", dist.Normal(torch.tensor([0.2, 1.0]), 0.7).to_event(1))
    rate = pyro.sample("rate", dist.Gamma(4.0, 5.0))
    with pyro.plate("sites", len(cover), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(logits=a[0] + a[1] * cover))
        probs = z.unsqueeze(-1) * (1 - (-rate * effort).exp())
        pyro.sample("y", dist.Bernoulli(probs).to_event(1), obs=detections)


def sequential_plate(data, weights, centres):
    """A mixture, one datum after another."""
    locs = pyro.sample("locs", dist.Normal(centres, 0.5).to_event(1))
    for i in pyro.plate("data", len(data)):
        z = pyro.sample(f"z_{i}", dist.Categorical(weights))
        pyro.sample(f"y_{i}", dist.Normal(locs[z], 0.5), obs=data[i])


def enumerated_beside(data, table):
    """An enumerated state and another one choose from a table together."""
    mark = {"enumerate": "parallel"}
    with pyro.plate("data", len(data), dim=-1):
        e = pyro.sample("e", dist.Categorical(torch.tensor([0.7, 0.3])), infer=mark)
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.2, 0.3])))
        pyro.sample("y", dist.Normal(Vindex(table)[e, z], 0.5), obs=data)
