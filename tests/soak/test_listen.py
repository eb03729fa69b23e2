"""Listening with the pretrained model: its promise on joined utterances, and files in real time."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from farvox import Verifier
from farvox.audio.files import read_audio, write_audio
from farvox.cli.main import main

SCRIPT = Path(__file__).parents[2] / "benchmarks/listen.py"


def test_the_promised_errors_hold_on_20_000_trials_of_joined_utterances(campplus, corpora, tmp_path, tell):
    work = os.environ.get("FARVOX_LISTEN", str(tmp_path))  # embeddings of an earlier run
    command = [sys.executable, str(SCRIPT), work, "--card"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    test = Verifier.from_pretrained().card.sequential
    for name in ("near", "AN4"):
        cells = re.search(rf"^\| {name} \|(.*)\|$", done.stdout, re.MULTILINE)[1].split("|")
        counts = [int(cells[n].replace(",", "")) for n in (0, 4)]
        accepted, not_accepted, rejected, not_rejected = (
            float(cells[n].split()[0]) / 100 for n in (1, 2, 5, 6)
        )
        assert sum(counts) == 20_000 and counts[1] >= 300
        assert accepted <= test.false_acceptance and rejected <= test.false_rejection
        assert not_accepted <= 0.1 and not_rejected <= 0.1
        tell(f"joined utterances, {name}", accepted=accepted, rejected=rejected, undecided=not_rejected)


def test_twenty_files_in_real_time_end_as_fast_ones_do_and_as_verify_does(
    campplus, corpora, tmp_path, capsys, tell
):
    folders = sorted((corpora / "speechocean762/WAVE").iterdir())[75:85]
    for folder in folders:
        wavs = [read_audio(path) for path in sorted(folder.iterdir())]
        write_audio(tmp_path / f"{folder.name}_enrol.wav", np.concatenate(wavs[:3]))
        write_audio(tmp_path / f"{folder.name}_test.wav", np.concatenate(wavs[3:]))
    delays, decided = [], []
    for step in (0, 1):
        for number, folder in enumerate(folders):
            enrol = str(tmp_path / f"{folder.name}_enrol.wav")
            test = str(tmp_path / f"{folders[(number + step) % 10].name}_test.wav")
            ends = []
            for way in ((), ("--real-time",)):
                begin = time.monotonic()
                status = main(["listen", enrol, "--source", test, "--json", *way])
                ends.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
                seconds = ends[-1]["test"][0]["seconds"]
                assert status == ("same", "different", "not yet").index(ends[-1]["decision"])
            assert time.monotonic() - begin >= seconds and ends[-1]["real_time_factor"] < 1
            assert ends[0]["decision"] == ends[1]["decision"] and ends[0]["score"] == ends[1]["score"]
            main(["verify", enrol, f"{test}#t=0,{seconds}", "--json"])
            offline = json.loads(capsys.readouterr().out)
            assert ends[1]["score"] == pytest.approx(offline["score"], abs=1e-5)
            delays.append(ends[1]["latest_look"])
            decided.append((step == 0, ends[1]["decision"], seconds))
    spoken = [seconds for *_, seconds in decided]
    tell("files in real time", trials=20, mean_s=round(np.mean(spoken), 1), latest_look=round(max(delays), 2))
    assert sum(decision == ("different", "same")[same] for same, decision, _ in decided) >= 19
