"""The tutorials and the demo run from end to end, in their short mode."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from scipy import special, stats

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
VAE = ("relaxed", "score function", "discrete")
PARTS = ("rows of logits each", "difference", "718")
NUTS = ("temperature", "exact", "r_hat", "diverging", "hard")
SWAP = ("enumerated", "discrete elbo", "probs", "unbiased", "straight-through", "right")
SWAP_PICTURES = ("graphs", "flowers", "heaps")
HALVES = ("means", "binary", "train", "one draw", "nats per image")
SLOW = pytest.mark.slow
SPLIT = ("driven by", "as planned", "evidence", "all relaxed", "then summed out")
TOPICS = ("relaxed", "enumerated", "marginalized", "distance", "sampled")
HOLES = ("complete rows", "slopes", "relaxed, iwae", "holes correctly")
CHOICE = ("enumeration, which is exact", "cos 1", "learned temperature", "disarm")


@pytest.mark.parametrize(
    ("name", "words", "pictures"),
    [
        pytest.param(
            *("discrete_vae_pyro", (*VAE, "softness", "of the guide"), ()), marks=SLOW
        ),
        # JAX compiles much for a short run.
        pytest.param(
            *("discrete_vae_numpyro", (*VAE, "softness", "of the guide"), ()),
            marks=SLOW,
        ),
        # Both tutorials at once.
        pytest.param("demo", VAE, (), marks=SLOW),
        ("nuts_on_relaxed_pyro", NUTS, ()),
        pytest.param("nuts_on_relaxed_numpyro", NUTS, (), marks=SLOW),
        ("swap_the_sites_pyro", SWAP, SWAP_PICTURES),
        pytest.param(
            *("swap_the_sites_numpyro", (*SWAP[:4], "last loss"), SWAP_PICTURES),
            marks=SLOW,
        ),
        pytest.param("structured_prediction_pyro", HALVES, (), marks=SLOW),
        pytest.param("structured_prediction_numpyro", HALVES, (), marks=SLOW),
        pytest.param("past_one_device_pyro", PARTS, (), marks=SLOW),
        pytest.param("past_one_device_numpyro", PARTS, (), marks=SLOW),
        ("lda_pyro", TOPICS, ()),
        pytest.param("lda_numpyro", TOPICS, (), marks=SLOW),
        ("missing_data_pyro", HOLES, ()),
        pytest.param("missing_data_numpyro", HOLES, (), marks=SLOW),
        ("enumerate_and_relax_pyro", SPLIT, ()),
        pytest.param("enumerate_and_relax_numpyro", SPLIT, (), marks=SLOW),
        pytest.param("choosing_an_estimator_pyro", CHOICE, (), marks=SLOW),
        pytest.param("choosing_an_estimator_numpyro", CHOICE, (), marks=SLOW),
    ],
)
def test_short_run_prints_a_table_and_draws_pictures(name, words, pictures, tmp_path):
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
    for picture in [f"{name}_{x}" for x in pictures] or [name]:
        path = Path("out") / f"{picture}.png"
        assert (tmp_path / path).read_bytes().startswith(PNG)
        assert str(path) in result.stdout
    for word in words:
        assert word in result.stdout.lower()
    assert "warning" not in result.stderr.lower(), result.stderr[-2000:]


TUTORIALS = sorted(
    path for path in (ROOT / "tutorials").glob("*.py") if "\n# %%" in path.read_text()
)


@pytest.mark.parametrize("script", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_the_executed_script(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    written = jupytext.read(script, fmt="py:percent").cells
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in written
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert {o.output_type for o in outputs} <= {"stream", "display_data"}
    assert {o.name for o in outputs if o.output_type == "stream"} == {"stdout"}
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert str(ROOT) not in nbformat.writes(notebook)


@pytest.mark.parametrize(
    "output",
    [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text=f"in {ROOT}/out"),
    ],
    ids=["stderr", "path"],
)
def test_notebooks_with_noise_are_refused(output, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import execute

    cell = nbformat.v4.new_code_cell("1", id="cell-0", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(ValueError, match="noisy, cell cell-0"):
        execute.check("noisy", notebook)


def test_mnist_from_idx_files(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import halves

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 4, 4)), np.arange(12) % 10
    # Two zeros, 8 for unsigned bytes, the number of dims, and sizes of four bytes.
    header = b"\0\0\x08\x03" + b"".join(b"\0\0\0" + bytes([n]) for n in (12, 4, 4))
    for name in ("train", "t10k"):
        path = tmp_path / f"{name}-images-idx3-ubyte"
        path.write_bytes(header + images.astype(np.uint8).tobytes())
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"\0\0\x08\x01\0\0\0\x0c" + labels.astype(np.uint8).tobytes())

    found = halves.load(tmp_path)
    assert (found.side, found.half, found.levels) == (4, 8, 1)
    np.testing.assert_array_equal(found.train, images.reshape(12, 16) >= 128)
    np.testing.assert_array_equal(found.examples, found.test[:10])
    path.write_bytes(b"\0\0\x0d\x01\0\0\0\0")
    with pytest.raises(ValueError, match="not an idx file of unsigned bytes"):
        halves.load(tmp_path)


def test_bayes_rule_of_the_tutorials_on_swapping(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tutorials")
    import mixtures

    # At equal scales, log-odds between two kinds are linear in the measures.
    sites = {
        "shares": [0.5, 0.3, 0.2],
        "locs": [[1.0, 0.0], [4.0, 1.0], [6.0, 2.0]],
        "scales": [0.5, 0.5, 0.5],
    }
    measures = np.array([[2.0, 0.4], [5.0, 1.5], [5.2, 1.4]])
    found = mixtures.by_bayes(measures, sites)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    odds = np.log(0.2 / 0.3) + (measures - [5.0, 1.5]) @ [2.0, 1.0] / 0.25
    np.testing.assert_allclose(np.log(found[:, 2] / found[:, 1]), odds, rtol=1e-10)

    found = mixtures.second_by_bayes(np.array([1.0, 3.0]), [0.0, 4.0], 0.5, 0.3)
    odds = np.log(0.3 / 0.7) + np.array([-1, 1]) * 4 / 0.25
    np.testing.assert_allclose(special.logit(found), odds, rtol=1e-6)


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
