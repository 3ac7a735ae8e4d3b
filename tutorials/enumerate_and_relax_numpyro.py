# %% [markdown]
# # Enumerate what you can, relax what you can't, in NumPyro
#
# Enumeration is exact, and grows exponentially in the number of discrete sites that
# depend on each other. You can combine it with relaxation: enumerate as many sites as
# memory allows, relax the others, and train both in the same step. `plan_sites`
# decides which sites to enumerate. The example infers which note each of four voices
# sings, from the sound of all four together.
#
# Run it as `python tutorials/enumerate_and_relax_numpyro.py`, with `--short` for a
# quick look that trains for a few steps, and with `--data FOLDER` for real music: a
# folder with `jsb-chorales-quarter.json`, of the repository JSB-Chorales-dataset by
# czhuang on GitHub, or `polyphonic_music.npz` with the same chorales. The Pyro
# version is `enumerate_and_relax_pyro.py`.

# %%
import time

import chorales
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import page
from jax import lax, random
from numpyro.contrib.funsor import infer_config, markov
from numpyro.handlers import condition, seed, substitute, trace
from numpyro.infer import SVI, TraceEnum_ELBO

from numpyro_concrete import AutoConcrete, harden, plan_sites, relax

OPTIONS = page.options(data=True)
SHORT = OPTIONS.short

# %% [markdown]
# ## The music
#
# Phrases of a few beats for four voices. Without the chorales the notes are
# simulated: each voice walks up and down a scale in its own range. The observation at
# a beat is one spectrum: the sum of the spectra of the four notes, each with its
# overtones, and noise. The ranges overlap and so do the overtones, so the notes have
# to be inferred jointly.

# %%
PHRASES, BEATS = (2, 2) if SHORT else (30, 8)
music = chorales.load(OPTIONS.data, PHRASES, BEATS)
print("notes of each voice:", [len(p) for p in music.pitches])
print("phrases, beats, bins:", music.heard.shape)
page.show(chorales.draw_music(music), "enumerate_and_relax_numpyro_music")

# %% [markdown]
# ## The model
#
# A factorial hidden Markov model. Each voice is a chain of its own: the note picks
# the row of `move` from which the next one comes. At each beat, the four notes
# together determine the mean of the observed spectrum. `markov` says that a beat
# depends on the last one only. The transitions and the spectra are known here, and
# only the notes are inferred, so that the evidence is one number and every bound is
# below it.
#
# The beats are a loop of Python and no `scan`: `TraceEnum_ELBO` beside a `scan` is
# wrong without a warning, and `plan_sites` relaxes every site of such a model.

# %%
first, move, spectra = (
    [jnp.asarray(x) for x in arrays]
    for arrays in (music.first, music.move, music.spectra)
)
heard = jnp.asarray(music.heard)


def model(heard, pull=None):
    """Four voices, each with a note for every beat."""
    probs = list(first)
    with numpyro.plate("phrases", len(heard)):
        for t in markov(range(heard.shape[1])):
            mean = jnp.zeros(())
            for v in range(len(chorales.VOICES)):
                z = numpyro.sample(f"z{v}_{t}", dist.Categorical(probs[v]))
                mean = mean + spectra[v][z]
                probs[v] = move[v][z]
                if pull is not None and f"z{v}_{t}" in pull:  # see "Bounds and notes"
                    gain = pull[f"z{v}_{t}"][jnp.arange(len(heard)), z]
                    numpyro.factor(f"pull{v}_{t}", gain)
            sound = dist.Normal(mean, chorales.NOISE).to_event(1)
            numpyro.sample(f"heard_{t}", sound, obs=heard[:, t])


# %% [markdown]
# ## The plan
#
# The voices are independent a priori, but dependent given the observations. To
# marginalize out all of them means to score each beat under every combination of four
# notes. `plan_sites` runs the model once, determines which sites depend on each
# other, and computes the size of the largest tensor that `TraceEnum_ELBO` would
# create, without creating it. Then it moves sites to relaxation until the others fit
# the budget, a number of elements.

# %%
BUDGET = 2**15


def plan_for(budget):
    """The plan of the model under a budget."""
    return plan_sites(model, args=(heard,), budget=budget)


plan = plan_for(BUDGET)
print(chorales.abridged(plan))

# %% [markdown]
# The table has one line per site: the size of its largest tensor if all sites are
# enumerated, that tensor, the decision, and the reason. Relaxed sites are whole
# voices, not one voice here and another there: a neighbor of relaxed sites comes
# first.
#
# The budget counts the elements of tensors that the ELBO itself creates. It does not
# include the tensors of your model. Here that is the mean, which has all bins of the
# spectrum, at each beat, and gradients keep it:

# %%
bins = music.heard.shape[-1]
for name, elements in (("all", plan.cost_before), ("planned", plan.cost_after)):
    size = 4 * elements * bins * BEATS / 1e9
    print(f"{name:>8}: {size:8.3f} GB for one copy of the means of all beats")

# %% [markdown]
# A step has several such copies. Other budgets lead to other plans. With the smallest
# one, not even the transitions of a single voice fit, and almost nothing is
# enumerated:

# %%
BUDGETS = (2**15,) if SHORT else (2**12, 2**15, 2**18, 2**22)
print(chorales.budgets(plan_for, BUDGETS))

# %% [markdown]
# ## Both in one step
#
# `plan.apply` marks the sites to enumerate and relaxes the others. `AutoConcrete` is
# a guide for the relaxed sites only: `TraceEnum_ELBO` marginalizes out the enumerated
# sites, for each draw of the relaxed ones. A relaxed note is a mixture of rows of
# `move` and of `spectra`, beside enumerated ones that index them.
#
# We compare it with all voices relaxed: the same temperature, learning rate, number
# of steps and objective. `scoring="discrete"` uses the discrete probabilities of the
# notes instead of densities, so that the guide can become certain of them.

# %%
STEPS = 3 if SHORT else 250
RATE, LAST_RATE = 0.1, 0.01
TEMPERATURE = 1 / 2
SETTINGS = {"scoring": "discrete"}
# Without enumerated sites it is Trace_ELBO, which is meant then.
ELBO = TraceEnum_ELBO(max_plate_nesting=1)


def train(relaxed):
    """Train a guide of a relaxed model; return it, and CPU milliseconds a step."""
    guide = AutoConcrete(relaxed)
    rate = optax.exponential_decay(RATE, STEPS, LAST_RATE / RATE)
    svi = SVI(relaxed, guide, optax.adam(rate), ELBO)
    state = svi.init(random.key(0), heard)
    update = jax.jit(svi.update)
    state, _ = update(state, heard)  # compiles
    start = time.process_time()
    for _ in range(STEPS):
        state, _ = update(state, heard)
    params = jax.block_until_ready(svi.get_params(state))
    seconds = time.process_time() - start
    # Guides of NumPyro hold no parameters.
    return substitute(harden(guide), params), 1000 * seconds / STEPS


# %% [markdown]
# ## Bounds and notes
#
# Both are evaluated by the discrete ELBO, with `harden(guide)` for the relaxed sites
# and the enumerated ones marginalized out. The evidence is from a recursion over all
# combinations of notes that is written for this model. It is only a reference; it has
# no gradients.
#
# Both also predict the notes. Relaxed sites are drawn from the hardened guide; then
# the model is conditioned on them. For the enumerated sites NumPyro has
# `infer_discrete`, which makes one table of all of them together: too large for
# chains of this length. But the sum that trains the guide knows their marginal
# probabilities, too. Add a number to the log-probability of one value of a site: the
# gradient of the log-evidence in that number, at zero, is the probability of the
# value. This is what `pull` in the model is for. The mean over the draws is the
# answer.

# %%
DRAWS = 3 if SHORT else 30


def marked(model, summed):
    """The model with these sites marked for enumeration, and no others."""
    return infer_config(
        model,
        lambda site: {"enumerate": "parallel"} if site["name"] in summed else {},
    )


def values_of(program, names, key):
    """The values of some sites in a run of a program."""
    nodes = trace(seed(program, key)).get_trace(heard)
    return {name: nodes[name]["value"] for name in names}


def bounds(hard, summed):
    """Estimates of the discrete ELBO, in nats a beat, with some sites marginalized.

    The guide is drawn first and the model conditioned on it. TraceEnum_ELBO of both
    together is the same number, and takes longer to compile.
    """

    def bound(key):
        sites = trace(seed(hard, key)).get_trace(heard)
        drawn = {z: sites[z] for z in plan.sites if z not in summed}
        own = sum(site["fn"].log_prob(site["value"]).sum() for site in drawn.values())
        values = {name: site["value"] for name, site in drawn.items()}
        given = condition(marked(model, summed), values)
        return -ELBO.loss(key, {}, given, lambda _: None, heard) - own

    keys = random.split(random.key(1), DRAWS)
    found = jax.jit(lambda keys: lax.map(bound, keys))(keys)
    return np.asarray(found) / (PHRASES * BEATS)


def decode(hard, summed):
    """Probabilities of notes by voice, each of shape (phrases, beats, notes)."""

    def draw(key):
        drawn = values_of(hard, [z for z in plan.sites if z not in summed], key)
        given = condition(marked(model, summed), drawn)

        def log_evidence(pull):
            return -ELBO.loss(key, {}, given, lambda *_: None, heard, pull)

        pull = {z: jnp.zeros((PHRASES, notes_of(z))) for z in summed}
        probs = jax.grad(log_evidence)(pull) if summed else {}
        return probs | {z: jax.nn.one_hot(x, notes_of(z)) for z, x in drawn.items()}

    keys = random.split(random.key(2), DRAWS)
    by_site = jax.jit(lambda keys: lax.map(draw, keys))(keys)
    return [
        np.stack([by_site[f"z{v}_{t}"].mean(0) for t in range(BEATS)], 1)
        for v in range(len(chorales.VOICES))
    ]


def notes_of(site):
    """The number of notes of the voice of a site."""
    return len(music.pitches[int(site[1])])


# %%
relaxed_guide, relaxed_time = train(relax(model, TEMPERATURE, **SETTINGS))
cases = {"all relaxed": (relaxed_guide, (), relaxed_time)}
cases["... then summed out"] = relaxed_guide, plan.enumerated, None

planned_guide, planned_time = train(plan.apply(model, TEMPERATURE, **SETTINGS))
cases["planned"] = planned_guide, plan.enumerated, planned_time

evidence = chorales.log_evidence(music)
found, results = {}, []
for name, (guide, summed, milliseconds) in cases.items():
    found[name] = decode(guide, summed)
    right = chorales.right(found[name], music.sung)
    estimates = bounds(guide, summed)
    results.append(chorales.Result(name, estimates, right, milliseconds))
print(f"evidence: {evidence:.2f} nats a beat\n")
print(chorales.table(results, evidence))
page.show(chorales.draw_decoded(music, found), "enumerate_and_relax_numpyro")

# %% [markdown]
# The columns of voices are shares of beats whose most probable note is the one that
# was sung. Gray in the figure is the probability of each note, dots are what was
# sung.
#
# The planned bound is far tighter than the bound with all voices relaxed. The line
# between the two separates the effect of marginalization from that of training: it
# takes the guide that was trained with all voices relaxed, and marginalizes out the
# voices that the plan enumerates. This needs no further training, so you can do it
# after any relaxed training: harden the guide, and enumerate what fits. If this line
# is close to the planned one, the plan has helped by marginalization, and the guide
# of the other voices has learned as much without it.
#
# ## Summary
#
# - Ask `plan_sites` first. If all fits, enumerate all, and relax nothing.
# - If not, raise the budget as far as memory and time allow: an enumerated site needs
#   no approximate guide.
# - Enumerated sites need no guide. Ask `infer_discrete` for them, given draws of the
#   relaxed ones, or the gradient of the log-evidence where that is too large.
# - Report the discrete ELBO with the enumerated sites marginalized out.
