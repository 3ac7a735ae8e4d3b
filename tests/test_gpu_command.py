"""The command that runs all that needs a GPU: limits, summary, and a rehearsal."""

import pytest

from benchmarks.gpu import Part, main, run

QUICK = ("-c", "print('a result')")


def test_parts_run_in_turn_and_their_output_is_kept(tmp_path):
    parts = [Part("quick", QUICK, 60), Part("fails", ("-c", "raise SystemExit(2)"), 60)]
    outcomes = run(parts, tmp_path, 600)
    assert [x.verdict for x in outcomes] == ["done", "failed"]
    assert "a result" in (tmp_path / "logs" / "quick.log").read_text()
    summary = (tmp_path / "gpu.md").read_text()
    assert "| quick | done |" in summary
    assert "| fails | failed |" in summary


def test_a_part_is_stopped_at_its_limit_and_the_next_one_runs(tmp_path):
    endless = Part("endless", ("-c", "while True: pass"), 1)
    outcomes = run([endless, Part("quick", QUICK, 60)], tmp_path, 99)
    assert [x.verdict for x in outcomes] == ["stopped at its limit", "done"]
    assert "while True" in (tmp_path / "logs" / "endless.log").read_text()


def test_no_part_starts_when_the_time_is_over(tmp_path):
    [outcome] = run([Part("quick", QUICK, 60)], tmp_path, 0)
    assert outcome.verdict.startswith("not started")
    assert not (tmp_path / "logs").exists()


def test_an_unknown_part_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--only", "everything"])
    assert "everything" in capsys.readouterr().err


QUICK_PARTS = ("share_of_bandwidth_numpyro",)


def test_a_rehearsal_of_some_parts(tmp_path):
    options = ["--small", "--workers", "1", "--out", str(tmp_path)]
    assert main([*options, "--only", *QUICK_PARTS]) == 0
    assert (tmp_path / "share_of_bandwidth_numpyro.csv").exists()


@pytest.mark.slow
def test_a_rehearsal_of_the_others(tmp_path):
    options = ["--small", "--workers", "1", "--out", str(tmp_path)]
    assert main([*options, "--skip", *QUICK_PARTS]) == 0
    assert "PASSED" in (tmp_path / "gpu_tests.md").read_text()
    assert (tmp_path / "cells_numpyro.csv").exists()
