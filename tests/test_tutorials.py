"""The tutorials and the demo run from end to end, in their short mode."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from scipy import special

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
VAE = ("relaxed", "score function", "discrete")
NUTS = ("temperature", "exact", "r_hat", "diverging", "hard")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("discrete_vae_pyro", VAE),
        ("discrete_vae_numpyro", VAE),
        # Both tutorials at once.
        pytest.param("demo", VAE, marks=pytest.mark.slow),
        ("nuts_on_relaxed_pyro", NUTS),
        pytest.param("nuts_on_relaxed_numpyro", NUTS, marks=pytest.mark.slow),
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
