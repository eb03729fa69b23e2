"""Every stage on synthetic voices, from nothing to the report."""

import re

import pytest

from farvox.cli.main import main

pytest.importorskip("pyroomacoustics", reason="synthetic rooms need pyroomacoustics")


@pytest.mark.slow
def test_the_demo_recipe_goes_from_nothing_to_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smaller = {
        "paths.spec": "tiny",
        "device": "cpu",
        "threads": "1",
        "data.num_frames": "60",
        "data.epoch_size": "32",
        "data.workers": "0",
        "model.channels": "16",
        "model.pooled_channels": "32",
        "optim.batch_size": "16",
        "optim.precision": "fp32",
        "schedule.epochs": "2",
    }
    words = [word for name, value in smaller.items() for word in (f"--{name}", value)]
    assert main(["run", "demo", *words]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^(pre-trained|close-talk only|mix) +(\d+\.\d+) % .* (\d+\.\d+) %", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["pre-trained", "close-talk only", "mix"]
    assert "voices are synthetic" in out.split("== evaluate")[1]
    report = tmp_path / "exp" / "demo" / "report.html"
    assert "voices are synthetic" in report.read_text() and f"report: {report.relative_to(tmp_path)}" in out
    epochs = out.count("\nEpoch ")
    assert main(["run", "demo", *words]) == 0
    again = capsys.readouterr().out
    assert epochs > 0 and again.count("\nEpoch ") == 0
    assert again.split("== evaluate")[1] == out.split("== evaluate")[1]
