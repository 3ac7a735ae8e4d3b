"""The tutorials and the demo run from end to end, in their short mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"


def run(script, out):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, ROOT / "tutorials" / script, "--short", "--out", out]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


@pytest.mark.parametrize(
    "script", ["discrete_vae_pyro.py", "discrete_vae_numpyro.py", "demo.py"]
)
def test_short_run_prints_a_table_and_draws_a_picture(script, tmp_path):
    picture = tmp_path / "picture.png"
    result = run(script, picture)
    assert result.returncode == 0, result.stderr[-2000:]
    assert picture.read_bytes().startswith(PNG)
    assert str(picture) in result.stdout
    for word in ("relaxed", "score function", "discrete"):
        assert word in result.stdout.lower()
    assert "warning" not in result.stderr.lower(), result.stderr[-2000:]
