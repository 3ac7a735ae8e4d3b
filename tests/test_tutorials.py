"""The tutorials and the demo run from end to end, in their short mode."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
VAE = ("relaxed", "score function", "discrete")
NUTS = ("temperature", "exact", "r_hat", "diverging", "hard")
SPLIT = ("driven by", "as planned", "evidence", "all relaxed", "then summed out")
CHOICE = ("enumeration, which is exact", "cos 1", "learned temperature", "disarm")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("discrete_vae_pyro", VAE),
        ("discrete_vae_numpyro", VAE),
        # Both tutorials at once.
        pytest.param("demo", VAE, marks=pytest.mark.slow),
        ("nuts_on_relaxed_pyro", NUTS),
        pytest.param("nuts_on_relaxed_numpyro", NUTS, marks=pytest.mark.slow),
        ("enumerate_and_relax_pyro", SPLIT),
        pytest.param("enumerate_and_relax_numpyro", SPLIT, marks=pytest.mark.slow),
        ("choosing_an_estimator_pyro", CHOICE),
        pytest.param("choosing_an_estimator_numpyro", CHOICE, marks=pytest.mark.slow),
    ],
)
def test_short_run_prints_a_table_and_draws_a_picture(name, words, tmp_path):
    command = [sys.executable, ROOT / "tutorials" / f"{name}.py", "--short"]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    picture = Path("out") / f"{name}.png"
    assert (tmp_path / picture).read_bytes().startswith(PNG)
    assert str(picture) in result.stdout
    for word in words:
        assert word in result.stdout.lower()
    assert "warning" not in result.stderr.lower(), result.stderr[-2000:]


def test_bayes_rule_of_the_tutorials_on_nuts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import flowers

    # At one draw with equal scales the log-odds are linear in the measures.
    draws = {
        "share": np.array([0.3]),
        "locs": np.array([[[4.0, 1.0], [6.0, 2.0]]]),
        "scales": np.array([[0.5, 0.5]]),
    }
    measures = np.array([[5.0, 1.5], [5.2, 1.4], [6.0, 2.0]])
    odds = np.log(0.3 / 0.7) + (measures - [5.0, 1.5]) @ [2.0, 1.0] / 0.25
    np.testing.assert_allclose(
        flowers.by_bayes(measures, draws), special.expit(odds), rtol=1e-10
    )
    found = flowers.by_bayes(
        measures, {k: np.repeat(v, 5, 0) for k, v in draws.items()}
    )
    np.testing.assert_allclose(found, special.expit(odds), rtol=1e-10)


SONG = [[52, 48, 60, 64], [50, 48, 60, 67], [48, 53, 60, 65]]


def write_json(folder):
    songs = [SONG, [SONG[0], SONG[0][1:], SONG[0]], SONG[:2]]
    text = json.dumps({"train": songs, "test": []})
    (folder / "jsb-chorales-quarter.json").write_text(text)


def write_npz(folder):
    beats = np.zeros((8, 88), bool)
    for t, tones in enumerate([*SONG, SONG[0], SONG[0][1:], SONG[0], *SONG[:2]]):
        beats[t, np.array(tones) - 21] = True
    arrays = {"roll": np.packbits(beats, axis=-1), "lengths": [3, 3, 2]}
    named = {f"jsb_train_{name}": x for name, x in arrays.items()}
    np.savez(folder / "polyphonic_music.npz", **named)


@pytest.mark.parametrize("write", [write_json, write_npz])
def test_chorales_are_read_from_a_folder(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import chorales

    with pytest.raises(FileNotFoundError, match="neither jsb-chorales-quarter"):
        chorales.read(tmp_path, beats=3)
    write(tmp_path)
    # The second song has a beat of three notes, and the third is too short.
    assert chorales.read(tmp_path, beats=3).tolist() == [[*map(sorted, SONG)]]


def test_evidence_of_the_tutorials_on_voices(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import chorales

    rng = np.random.default_rng(0)
    sizes, beats, bins = (2, 3, 2, 2), 2, 5
    first = [rng.dirichlet(np.ones(k)) for k in sizes]
    move = [rng.dirichlet(np.ones(k), size=k) for k in sizes]
    spectra = [rng.normal(size=(k, bins)) for k in sizes]
    heard = rng.normal(size=(1, beats, bins))
    pitches, sung = [np.arange(k) for k in sizes], np.zeros((1, beats, 4), int)
    music = chorales.Music(pitches, first, move, spectra, heard, sung)
    # Every combination of notes at both beats, one by one.
    scores = []
    every = [*itertools.product(*map(range, sizes))]
    for a, b in itertools.product(every, every):
        score = sum(
            np.log(first[v][a[v]]) + np.log(move[v][a[v], b[v]]) for v in range(4)
        )
        for t, notes in enumerate((a, b)):
            mean = sum(spectra[v][notes[v]] for v in range(4))
            score += stats.norm.logpdf(heard[0, t], mean, chorales.NOISE).sum()
        scores.append(score)
    expected = special.logsumexp(scores) / beats
    np.testing.assert_allclose(chorales.log_evidence(music), expected, rtol=1e-10)
