"""``farvox evaluate`` as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from farvox.atomic import sha256_of
from farvox.cli.main import main
from farvox.datadir.embeddings import EmbeddingSet
from farvox.metrics.detection import detection_error


@pytest.fixture
def folder(tmp_path):
    """All pairs of sixteen takes of four speakers as a trial list in VoxCeleb's form, and their scores."""
    rng = np.random.default_rng(3)
    voices = np.repeat(rng.standard_normal((4, 16)), 4, axis=0)
    emb_NE = voices + 0.9 * rng.standard_normal(voices.shape)
    emb_NE /= np.linalg.norm(emb_NE, axis=1, keepdims=True)
    names = [f"{speaker}-{take}" for speaker in ("anna", "ben", "cleo", "dan") for take in range(4)]
    pairs = [(e, t) for e in range(16) for t in range(e + 1, 16)]
    trials = [f"{int(e // 4 == t // 4)} {names[e]}.wav {names[t]}.wav\n" for e, t in pairs]
    scores = [f"{names[e]}.wav {names[t]}.wav {float(emb_NE[e] @ emb_NE[t])}\n" for e, t in pairs]
    (tmp_path / "trials").write_text("".join(trials))
    (tmp_path / "scores").write_text("".join(scores))
    return tmp_path


def run(*words):
    return main([str(word) for word in words])


def test_scores_become_figures(folder, capsys):
    trials = [line.split() for line in (folder / "trials").read_text().splitlines()]
    rows = [line.split() for line in (folder / "scores").read_text().splitlines()]
    assert run("evaluate", folder / "trials", folder / "scores", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    expected = detection_error([float(r[2]) for r in rows], [int(t[0]) for t in trials])
    for name in ("eer", "min_dcf", "threshold", "num_target", "num_nontarget"):
        assert figures[name] == getattr(expected, name)
    assert (figures["num_target"], figures["num_nontarget"]) == (24, 96)
    assert 0 < figures["eer"] < 0.2

    assert run("evaluate", folder / "trials", folder / "scores") == 0
    assert f"EER     {expected.eer:.4%}" in capsys.readouterr().out


def test_metadata_of_other_scores_are_reported_and_not_used(folder, capsys):
    meta = {"leaks": ["warning: a leak"], "sha256": sha256_of(folder / "scores")}
    (folder / "scores.meta.json").write_text(json.dumps(meta))
    assert run("evaluate", folder / "trials", folder / "scores") == 0
    assert capsys.readouterr().err == "warning: a leak\n"
    lines = (folder / "scores").read_text().splitlines()
    (folder / "scores").write_text("".join(f"{line}\n" for line in lines[::-1]))
    assert run("evaluate", folder / "trials", folder / "scores") == 0
    said = capsys.readouterr().err
    assert f"note: {folder}/scores.meta.json: of other scores than" in said and "a leak" not in said


def test_figures_follow_the_options(folder, capsys):
    run("evaluate", folder / "trials", folder / "scores", "--json", "--p-target", "0.5", "--ties", "grouped")
    figures = json.loads(capsys.readouterr().out)
    assert figures["p_target"] == 0.5 and figures["min_dcf"] <= 2 * figures["eer"]
    words = ("evaluate", folder / "trials", folder / "scores", "--threshold=-1")
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["at"] == {"threshold": -1.0, "far": 1.0, "frr": 0.0}
    assert run(*words) == 0
    assert "at -1     FAR 100.0000%, FRR 0.0000%" in capsys.readouterr().out


def test_a_report_and_a_plot_are_written_when_asked_for(folder):
    words = ("evaluate", folder / "trials", folder / "scores")
    assert run(*words, "--report", folder / "page.html", "--plot", folder / "det.svg") == 0
    assert run(*words, "--report", folder / "report", "--plot", folder / "det.png") == 0
    assert "<svg" in (folder / "page.html").read_text("utf-8")
    assert {p.name for p in (folder / "report").iterdir()} >= {"report.html", "det.png", "scores.svg"}
    assert (folder / "det.svg").is_file() and (folder / "det.png").is_file()


FAULTS = {
    "no labels": ("anna-0 anna-1\n", "anna-0 anna-1 1\n", "list: no labels"),
    "missing trial": ("1 a b\n0 a c\n", "a b 1\n", "1 of the 2 trials have no score"),
    "one kind only": ("1 a b\n1 a c\n", "a b 1\na c 2\n", "none of the 2 trials is a non-target"),
}


@pytest.mark.parametrize(("listed", "scored", "message"), FAULTS.values(), ids=FAULTS)
def test_input_at_fault_gives_a_message_and_status_1(folder, capsys, listed, scored, message):
    (folder / "list").write_text(listed)
    (folder / "scored").write_text(scored)
    assert run("evaluate", folder / "list", folder / "scored") == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("farvox evaluate: ") and message in said.err
    assert "Traceback" not in said.err


def test_wrong_usage_gives_status_2(folder, capsys):
    assert run("evaluate", folder / "trials", folder / "scores", "--plot", folder / "det.gif") == 2
    assert "a plot is a .png or an .svg file" in capsys.readouterr().err


def test_evaluate_does_not_import_torch(folder):
    program = (
        "import sys; from farvox.cli.main import main; main(['evaluate', 'trials', 'scores']);"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_intervals_hold_the_figure_and_come_from_either_source_of_speakers(folder, capsys):
    words = ("evaluate", folder / "trials", folder / "scores", "--intervals", "--bootstrap", "50")
    assert run(*words, "--json", "--speaker-before", "-") == 0
    figures = json.loads(capsys.readouterr().out)
    sure = figures["intervals"]
    assert sure["eer"][0] <= figures["eer"] <= sure["eer"][1] < 0.5
    assert (sure["num_speakers"], sure["replicates"], sure["seed"], sure["level"]) == (4, 50, 0, 0.95)
    names = sorted(
        {word for line in (folder / "trials").read_text().splitlines() for word in line.split()[1:]}
    )
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    assert run(*words, "--json", "--trial-speakers", folder / "utt2spk") == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert run(*words, "--speaker-before", "-", "--seed", "1") == 0
    assert "95% intervals, 50 resamples of 4 speakers (seed 1): EER " in capsys.readouterr().out


def test_two_systems_are_compared_on_the_same_draws(folder, capsys):
    rows = [line.split() for line in (folder / "scores").read_text().splitlines()]
    (folder / "worse").write_text("".join(f"{e} {t} {np.sin(97 * float(s))}\n" for e, t, s in rows))
    words = ("evaluate", folder / "trials", folder / "scores", "--speaker-before", "-", "--bootstrap", "50")
    assert run(*words, "--json", "--against", folder / "worse") == 0
    eer = json.loads(capsys.readouterr().out)["against"]["eer"]
    assert eer["excludes_zero"] is True and eer["interval"][1] < 0 and eer["difference"] < 0
    assert run(*words, "--against", folder / "scores") == 0
    assert "+0.00%, +0.00% to +0.00%, which does not exclude zero" in capsys.readouterr().out


def test_nothing_is_written_into_a_folder_of_embeddings(folder, capsys):
    EmbeddingSet(["a"], np.ones((1, 4), np.float32)).save(folder / "emb")
    before = {path.name: path.read_bytes() for path in (folder / "emb").iterdir()}
    words = ("evaluate", folder / "trials", folder / "scores")
    for flag, name in (("--report", "emb"), ("--report", "emb/page.html"), ("--plot", "emb/det.png")):
        assert run(*words, flag, folder / name) == 1
        assert "a folder of embeddings is replaced as a whole, with it" in capsys.readouterr().err
    assert run("submit", folder / "trials", folder / "scores", folder / "emb/score.txt") == 1
    assert {path.name: path.read_bytes() for path in (folder / "emb").iterdir()} == before


def test_conditions_have_figures_of_their_own_in_text_json_and_report(folder, capsys):
    names = [f"{speaker}-{take}" for speaker in ("anna", "ben", "cleo", "dan") for take in range(4)]
    lines = [f"{name}\t{'near' if int(name[-1]) < 3 else 'far'}\tmic\n" for name in names]
    (folder / "utt2cond").write_text("utt_id\tdistance\tdevice\n" + "".join(lines))
    words = ("evaluate", folder / "trials", folder / "scores", "--by", "distance", "--by", "enrol.device")
    words += (
        "--conditions",
        folder / "utt2cond",
        "--intervals",
        "--speaker-before",
        "-",
        "--bootstrap",
        "20",
    )
    assert run(*words, "--json") == 0
    far, near = json.loads(capsys.readouterr().out)["conditions"]
    assert far["condition"] == {"distance": "far", "enrol.device": "mic"}
    assert far["num_target"] == 12 and far["num_target"] + near["num_target"] == 24
    assert far["intervals"]["eer"][0] <= far["eer"] <= far["intervals"]["eer"][1]
    assert run(*words, "--report", folder / "page.html") == 0
    assert "distance  enrol.device  EER" in capsys.readouterr().out
    page = (folder / "page.html").read_text("utf-8")
    assert (
        "By distance, enrol.device" in page and "resamples of 4 speakers" in page and "<td>near</td>" in page
    )


def test_a_condition_may_be_named_twice_and_called_anything(folder, capsys):
    names = [f"{speaker}-{take}" for speaker in ("anna", "ben", "cleo", "dan") for take in range(4)]
    lines = [f"{name}\t{int(name[-1]) % 2}\n" for name in names]
    (folder / "utt2cond").write_text("utt_id\tnumber\n" + "".join(lines))
    words = ("evaluate", folder / "trials", folder / "scores", "--conditions", folder / "utt2cond")
    assert run(*words, "--by", "number", "--by", "number", "--json") == 0
    cells = json.loads(capsys.readouterr().out)["conditions"]
    assert [cell["condition"] for cell in cells] == [{"number": "0"}, {"number": "1"}]


def test_sides_that_were_scored_with_channels_missing_have_speakers_and_conditions(tmp_path, capsys):
    far = [f"{name}-far_{mic}" for name in ("ann", "ben", "cleo") for mic in range(3)]
    far.remove("ben-far_1")
    names = sorted([*far, "ann", "ben", "cleo"])
    (tmp_path / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    lines = [f"{name}\t{name[-1] if '_' in name else ''}\n" for name in names]
    (tmp_path / "utt2cond").write_text("utt_id\tchannel\n" + "".join(lines))
    pairs = [(e, t) for e in ("ann", "ben", "cleo") for t in ("ann", "ben", "cleo")]
    (tmp_path / "trials").write_text("".join(f"{int(e == t)} {e} {t}-far\n" for e, t in pairs))
    (tmp_path / "scores").write_text("".join(f"{e} {t}-far {n % 4}\n" for n, (e, t) in enumerate(pairs)))
    words = ("evaluate", tmp_path / "trials", tmp_path / "scores", "--intervals", "--bootstrap", "5")
    words += (
        "--trial-speakers",
        tmp_path / "utt2spk",
        "--by",
        "channel",
        "--conditions",
        tmp_path / "utt2cond",
    )
    assert run(*words) == 0
    assert "0+2" in capsys.readouterr().out


def test_a_seed_below_zero_is_wrong_usage(folder, capsys):
    words = ("evaluate", folder / "trials", folder / "scores", "--intervals", "--speaker-before", "-")
    assert run(*words, "--seed", "-1") == 2
    assert "a seed is not negative" in capsys.readouterr().err


HALF_SAID = {
    "no speakers": (["--intervals"], "an interval needs the speakers"),
    "no speakers for a comparison": (["--against", "scores"], "an interval needs the speakers"),
    "both": (["--intervals", "--speaker-before", "-", "--trial-speakers", "x"], "not from both"),
    "speakers for nothing": (["--speaker-before", "-"], "add --intervals or --against"),
    "no resamples": (
        ["--intervals", "--speaker-before", "-", "--bootstrap", "0"],
        "bootstrap = 0; it must be at least 1",
    ),
    "conditions of nothing": (["--by", "distance"], "give both"),
}


@pytest.mark.parametrize(("words", "message"), HALF_SAID.values(), ids=HALF_SAID)
def test_what_is_half_said_is_wrong_usage(folder, capsys, words, message):
    assert run("evaluate", folder / "trials", folder / "scores", *words) == 2
    assert message in capsys.readouterr().err


def test_tied_scores_are_noted_where_they_change_the_figures(tmp_path, capsys):
    """EER of constant scores: 100 % in the baseline's order, 50 % by thresholds that exist."""
    (tmp_path / "trials").write_text("1 a b\n0 a c\n1 d e\n0 d f\n")
    words = ["evaluate", str(tmp_path / "trials"), str(tmp_path / "scores"), "--json"]
    for values, note in (
        ("0.5 0.5 0.5 0.5", "note: 4 of 4 trials share scores"),
        ("0.9 0.2 0.9 0.2", None),
        ("0.9 0.1 0.8 0.2", None),
        ("0.1 0.8 0.2 0.9", "note: the EER is above 50 %"),
    ):
        pairs = zip(("a b", "a c", "d e", "d f"), values.split(), strict=True)
        (tmp_path / "scores").write_text("".join(f"{pair} {value}\n" for pair, value in pairs))
        assert main([*words, "--report", str(tmp_path / "page.html")]) == 0
        said = capsys.readouterr()
        notes = json.loads(said.out)["notes"]
        assert len(notes) == (note is not None)
        for line in notes:
            assert line.startswith(note) and line in said.err
        assert (note or "share scores") in (tmp_path / "page.html").read_text() or note is None
        if values.startswith("0.5"):
            assert "EER is 100.0000%" in notes[0] and "--ties grouped" in notes[0]
            assert "EER is 50.0000%" in notes[0]
            assert main([*words, "--ties", "grouped"]) == 0
            assert json.loads(capsys.readouterr().out)["eer"] == 0.5
