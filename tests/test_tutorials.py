"""The tutorials and the demo run from end to end, in their short mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", ["discrete_vae_pyro", "discrete_vae_numpyro", "demo"])
def test_short_run_prints_a_table_and_draws_a_picture(name, tmp_path):
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
    for word in ("relaxed", "score function", "discrete"):
        assert word in result.stdout.lower()
    assert "warning" not in result.stderr.lower(), result.stderr[-2000:]
