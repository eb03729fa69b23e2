"""``farvox evaluate`` as a user types it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import farvox
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
    assert f"EER     {100 * expected.eer:.1f} %  at" in capsys.readouterr().out


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
    assert "at -1     FAR 100.0 %, FRR 0.0 %" in capsys.readouterr().out


def test_costs_at_several_operating_points_and_figures_of_likelihood_ratios(folder, capsys):
    words = ("evaluate", folder / "trials", folder / "scores")
    more = ("--dcf", "0.05", "--dcf", "0.01,10,1", "--llr", "--frr-at", "0.1", "0.5")
    assert run(*words, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert run(*words, *more, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert {name: figures[name] for name in plain} == plain
    points = [(each["p_target"], each["c_miss"], each["c_fa"]) for each in figures["dcf"]]
    assert points == [(0.01, 1, 1), (0.05, 1, 1), (0.01, 10, 1)]
    assert figures["dcf"][0]["min_dcf"] == plain["min_dcf"]
    assert all(each["min_dcf"] <= each["act_dcf"] for each in figures["dcf"])
    assert figures["dcf"][1]["act_dcf_threshold"] == pytest.approx(np.log(0.95 / 0.05))
    assert 0 <= figures["min_cllr"] <= figures["cllr"] and 0.9 < figures["auc"] < 1
    assert 0 < figures["rocch_eer"] <= figures["eer"] + 1 / 24
    assert [each["far"] <= each["far_at_most"] for each in figures["frr_at"]] == [True, True]

    assert run(*words, *more) == 0
    names = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    costs = ["minDCF", "actDCF"] * 3
    assert names == ["EER", *costs, "Cllr", "minCllr", "AUC", "ROCCH", "FRR", "FRR"]
    assert run(*words, "--roc") == 0
    assert "ROCCH   " in (out := capsys.readouterr().out) and "actDCF" not in out


def test_the_actual_cost_is_that_at_a_given_threshold(folder, capsys):
    words = ("evaluate", folder / "trials", folder / "scores", "--threshold", "0.3", "--dcf", "0.5,2,1")
    assert run(*words, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    at, (first, second) = figures["at"], figures["dcf"]
    assert first["dcf_at_threshold"] == pytest.approx((0.01 * at["frr"] + 0.99 * at["far"]) / 0.01)
    assert second["dcf_at_threshold"] == pytest.approx((2 * 0.5 * at["frr"] + 0.5 * at["far"]) / 0.5)
    assert first["act_dcf"] is second["act_dcf_threshold"] is None
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "(P_target 0.5, C_miss 2, C_fa 1, normalised)" in out and "  at the given threshold 0.3" in out


def test_the_actual_cost_of_likelihood_ratios_stays_at_bayes_threshold_beside_a_given_one(folder, capsys):
    words = ("evaluate", folder / "trials", folder / "scores", "--p-target", "0.4", "--llr")
    assert run(*words, "--json") == 0
    (plain,) = json.loads(capsys.readouterr().out)["dcf"]
    words += ("--threshold", "0.3", "--intervals", "--speaker-before", "-", "--dcf", "0.3,2,1")
    assert run(*words, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    at, (both, other) = figures["at"], figures["dcf"]
    given = (0.4 * at["frr"] + 0.6 * at["far"]) / 0.4
    assert both == plain | {"dcf_at_threshold": pytest.approx(given)}
    assert both["act_dcf_threshold"] == pytest.approx(np.log(0.6 / 0.4)) and both["act_dcf"] != given
    for key, cost in (("", both), ("@0.3,2,1", other)):
        for name in ("act_dcf", "dcf_at_threshold"):
            low, high = figures["intervals"][f"{name}{key}"]
            assert low <= cost[name] <= high
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert out.count("at the given threshold 0.3") == 2 and out.count("\nactDCF") == 2
    assert ", DCF at 0.3 (0.4) " in out and ", actDCF (0.3,2,1) " in out


def test_a_report_and_a_plot_are_written_when_asked_for(folder):
    words = ("evaluate", folder / "trials", folder / "scores")
    assert run(*words, "--report", folder / "page.html", "--plot", folder / "det.svg") == 0
    assert run(*words, "--report", folder / "report", "--plot", folder / "det.png") == 0
    assert "<svg" in (folder / "page.html").read_text("utf-8")
    written = {p.name for p in (folder / "report").iterdir()}
    assert written >= {"report.html", "det.png", "scores.svg", "results.json"}
    results = json.loads((folder / "report/results.json").read_text())
    assert results["trials"][str(folder / "trials")] == sha256_of(folder / "trials")
    assert 0 < results["eer"] < 0.2 and results["versions"]["farvox"] == farvox.__version__
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
    assert "a plot is a .png, .svg or .pdf file" in capsys.readouterr().err


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
    assert sure["eer"][0] <= figures["eer"] <= sure["eer"][1] < 0.7
    assert (sure["num_speakers"], sure["replicates"], sure["seed"], sure["level"]) == (4, 50, 0, 0.95)
    names = sorted(
        {word for line in (folder / "trials").read_text().splitlines() for word in line.split()[1:]}
    )
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    assert run(*words, "--json", "--trial-speakers", folder / "utt2spk") == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert run(*words, "--speaker-before", "-", "--seed", "1") == 0
    assert "95 % intervals, 50 resamples of 4 speakers (seed 1): EER " in capsys.readouterr().out


def test_two_systems_are_compared_on_the_same_draws(folder, capsys):
    rows = [line.split() for line in (folder / "scores").read_text().splitlines()]
    (folder / "worse").write_text("".join(f"{e} {t} {np.sin(97 * float(s))}\n" for e, t, s in rows))
    words = ("evaluate", folder / "trials", folder / "scores", "--speaker-before", "-", "--bootstrap", "50")
    assert run(*words, "--json", "--against", folder / "worse") == 0
    eer = json.loads(capsys.readouterr().out)["against"]["eer"]
    assert eer["excludes_zero"] is (eer["p"] < 0.05) and eer["difference"] < 0
    assert eer["interval"][0] < eer["difference"] < eer["interval"][1]
    assert run(*words, "--against", folder / "scores") == 0
    same = "EER 12.5 % (scores) -> 12.5 % (scores) (+0.0 points, 95 % interval +0.0 to +0.0, p 1.00)"
    assert same in capsys.readouterr().out


def test_every_figure_that_is_asked_for_has_an_interval(folder, capsys):
    words = ("evaluate", folder / "trials", folder / "scores", "--intervals", "--speaker-before", "-")
    words += ("--bootstrap", "50", "--threshold", "0.4", "--dcf", "0.05", "--frr-at", "0.1", "--roc")
    assert run(*words, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    sure = figures["intervals"]
    for name, value in (
        ("threshold", figures["threshold"]),
        ("far", figures["at"]["far"]),
        ("frr", figures["at"]["frr"]),
        ("dcf_at_threshold", figures["dcf"][0]["dcf_at_threshold"]),
        ("min_dcf@0.05", figures["dcf"][1]["min_dcf"]),
        ("frr@0.1", figures["frr_at"][0]["frr"]),
        ("auc", figures["auc"]),
        ("rocch_eer", figures["rocch_eer"]),
        ("min_cllr", figures["min_cllr"]),
    ):
        assert sure[name][0] <= value <= sure[name][1]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "FAR " in out and "minDCF (0.05) " in out and "their thresholds: of EER " in out


@pytest.fixture
def systems(folder):
    """Score files of a second system, three seeds of it."""
    rows = [line.split() for line in (folder / "scores").read_text().splitlines()]
    for seed in range(3):
        noise = 0.3 * np.random.default_rng(seed).standard_normal(len(rows))
        lines = [f"{e} {t} {float(s) + n}\n" for (e, t, s), n in zip(rows, noise, strict=True)]
        (folder / f"seed{seed}").write_text("".join(lines))
    return folder


def test_several_systems_are_compared_and_several_seeds_are_one_system(systems, capsys):
    seeds = [systems / f"seed{seed}" for seed in range(3)]
    words = ("evaluate", systems / "trials", "noisy=" + ",".join(map(str, seeds)), systems / "scores")
    words += ("--intervals", "--speaker-before", "-", "--bootstrap", "50")
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    noisy, plain = found["systems"]
    assert (noisy["system"], plain["system"]) == ("noisy", "scores")
    alone = []
    for seed in seeds:
        assert run("evaluate", systems / "trials", seed, "--json") == 0
        alone.append(json.loads(capsys.readouterr().out)["eer"])
    assert noisy["eer"] == pytest.approx(np.mean(alone)) and noisy["seeds"]["values"]["eer"] == alone
    assert noisy["seeds"]["std"]["eer"] == pytest.approx(np.std(alone, ddof=1)) and "seeds" not in plain
    (pair,) = found["differences"]
    assert (pair["system"], pair["other"]) == ("noisy", "scores")
    assert pair["eer"]["difference"] == pytest.approx(noisy["eer"] - plain["eer"])
    assert pair["eer"]["other"] == plain["eer"] and 0 < pair["eer"]["p"] <= 1

    assert run(*words, "--report", systems / "page.html") == 0
    out, page = capsys.readouterr().out, (systems / "page.html").read_text("utf-8")
    lines = out.splitlines()
    assert "== noisy" in lines and any(line.startswith("mean of 3 seeds: EER ") for line in lines)
    (line,) = [line for line in lines if line.startswith("EER 12.5 % (scores) -> ")]
    assert "(noisy) (" in line and " points, 95 % interval " in line and ", p " in line
    assert "noisy, seed 3" in page and "Differences" in page and "scores: 12.5 %" in page

    names = sorted(
        {name for line in (systems / "trials").read_text().splitlines() for name in line.split()[1:]}
    )
    rows = [f"{name}\t{'near' if n % 2 else 'far'}\n" for n, name in enumerate(names)]
    (systems / "places").write_text("utt_id\tplace\n" + "".join(rows))
    by_place = ("--by", "place", "--conditions", systems / "places", "--json")
    assert run(*words, *by_place) == 0
    told = capsys.readouterr()
    assert "noisy: note: means of seeds by condition have no intervals" in told.err
    far = [table["conditions"][0] for table in json.loads(told.out)["systems"]]
    assert far[0]["intervals"] is None and far[1]["intervals"] is not None
    assert run(*words, *by_place[:-1], "--tables", systems / "t.md") == 0
    (rows,) = re.findall(r"## By place\n\n(.*)", (systems / "t.md").read_text(), re.DOTALL)
    cells = [line.split(" | ") for line in rows.replace("|---|", "| - |").splitlines()]
    assert len({len(row) for row in cells if len(row) > 2}) == 1 and len(cells) == 10  # both systems alike
    alone = []
    capsys.readouterr()
    for seed in seeds:
        assert run("evaluate", systems / "trials", seed, *by_place) == 0
        alone.append(json.loads(capsys.readouterr().out)["conditions"][0]["eer"])
    assert far[0]["eer"] == pytest.approx(np.mean(alone)) and far[0]["seeds"]["values"]["eer"] == alone


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=scores", "a=scores"], "'a=scores': give each system a name of its own"),
        (["=scores"], "give each system a name of its own and its scores"),
        (["a="], "give each system a name of its own and its scores"),
        (["a=scores,scores"], "its scores, each once"),
        (
            ["a=scores", "scores", "--against", "scores", "--speaker-before", "-"],
            "--against is for a single score file",
        ),
    ],
)
def test_systems_without_a_name_of_their_own_are_wrong_usage(folder, capsys, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    assert run("evaluate", "trials", *words) == 2
    assert message in capsys.readouterr().err


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
    assert re.search("distance +enrol.device  EER", capsys.readouterr().out)
    page = (folder / "page.html").read_text("utf-8")
    assert (
        "By distance, enrol.device" in page and "resamples of 4 speakers" in page and "<td>near</td>" in page
    )


def test_each_condition_has_its_error_rates_at_one_shipped_threshold(folder, capsys):
    names = [f"{speaker}-{take}" for speaker in ("anna", "ben", "cleo", "dan") for take in range(4)]
    lines = [f"{name}\t{'near' if int(name[-1]) < 3 else 'far'}\n" for name in names]
    (folder / "utt2cond").write_text("utt_id\tdistance\n" + "".join(lines))
    words = ("evaluate", folder / "trials", folder / "scores", "--by", "distance", "--conditions")
    words += (folder / "utt2cond", "--threshold", "0.3")
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    far, near = found["conditions"]
    trials = [line.replace(".wav", "").split() for line in (folder / "trials").read_text().splitlines()]
    lines = [line.replace(".wav", "").split() for line in (folder / "scores").read_text().splitlines()]
    score_of = {(enrol, test): float(score) for enrol, test, score in lines}
    for cell, takes in ((far, "3"), (near, "012")):
        kinds = [
            [score_of[e, t] >= 0.3 for label, e, t in trials if label == kind and t[-1] in takes]
            for kind in "01"
        ]
        assert cell["far"] == pytest.approx(sum(kinds[0]) / len(kinds[0]))
        assert cell["frr"] == pytest.approx(1 - sum(kinds[1]) / len(kinds[1]))
        assert cell["dcf_at_threshold"] == pytest.approx(cell["frr"] + 99 * cell["far"])
        assert cell["note"].startswith("few target trials: one is ")
    for rate in ("far", "frr", "dcf_at_threshold"):
        assert found["equalised"][rate] == pytest.approx((far[rate] + near[rate]) / 2)
    assert found["equalised"]["num_conditions"] == 2
    assert run(*words, "--intervals", "--speaker-before", "-", "--bootstrap", "20") == 0
    head, *rows = capsys.readouterr().out.splitlines()[-5:]
    assert head.split()[:9] == ["distance", "EER", "95", "%", "minDCF", "95", "%", "FAR", "at"]
    assert [row.split("  ")[0] for row in rows] == ["far", "near", "all, pooled", "all, equalised"]


def test_trials_of_an_unknown_condition_are_not_one_that_weighs_the_same(folder, capsys):
    names = [f"{speaker}-{take}" for speaker in ("anna", "ben", "cleo", "dan") for take in range(4)]
    lines = [f"{name}\t{('near', 'near', 'far', '')[int(name[-1])]}\n" for name in names]
    (folder / "utt2cond").write_text("utt_id\tdistance\n" + "".join(lines))
    words = ("evaluate", folder / "trials", folder / "scores", "--by", "distance", "--conditions")
    words += (folder / "utt2cond", "--threshold", "0.3")
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    unknown, far, near = found["conditions"]
    assert unknown["condition"] == {"distance": ""} and unknown["far"] is not None
    equalised, left = found["equalised"], unknown["num_target"] + unknown["num_nontarget"]
    assert (equalised["num_conditions"], equalised["num_unknown"]) == (2, left)
    assert equalised["num_target"] == far["num_target"] + near["num_target"]
    for rate in ("far", "frr"):
        assert equalised[rate] == pytest.approx((far[rate] + near[rate]) / 2)
    assert run(*words) == 0
    assert f"2 conditions weigh the same; without {left} trials of unknown" in capsys.readouterr().out


def test_one_data_dir_has_speakers_and_conditions(folder, capsys):
    names = [f"{speaker}-{take}" for speaker in ("anna", "ben", "cleo", "dan") for take in range(4)]
    (folder / "wav.scp").write_text("".join(f"{name} {name}.wav\n" for name in names))
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    (folder / "utt2num_samples").write_text("".join(f"{name} {8000 * int(name[-1])}\n" for name in names))
    (folder / "spk2gender").write_text("anna f\nben m\ncleo f\ndan m\n")
    words = ("evaluate", folder / "trials", folder / "scores", "--data", folder, "--intervals", "--json")
    words += ("--bootstrap", "20", "--by", "duration", "--edges", "duration=1", "--by", "same.gender")
    assert run(*words) == 0
    found = json.loads(capsys.readouterr().out)
    cells = {tuple(cell["condition"].values()): cell for cell in found["conditions"]}
    assert found["intervals"]["num_speakers"] == 4
    assert {length for length, _ in cells} == {"below 1 s", "1 s or more"}
    for (_, gender), cell in cells.items():
        assert (cell["num_target"] == 0) == (gender == "different")
        assert ("no target trials" in cell["note"]) == (gender == "different")
    assert found["equalised"]["num_conditions"] == 2


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ("duration=1,3", "there is no --by duration"),
        ("distance=3,1", "each edge is above the one before it"),
        ("distance=near", "edges are numbers, as in duration=1,3,6"),
    ],
)
def test_edges_of_bins_are_checked(folder, capsys, edges, message):
    words = ("--by", "distance", "--conditions", folder, "--edges", edges)
    assert run("evaluate", folder / "trials", folder / "scores", *words) == 2
    assert message in capsys.readouterr().err


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
    "half an operating point": (["--dcf", "0.01,10"], "dcf = '0.01,10' (2 numbers): give the prior"),
    "no operating point": (["--dcf", "x"], "dcf = 'x'"),
    "an impossible operating point": (["--dcf", "1.5"], "must be between 0 and 1, not 1.5"),
    "an impossible rate": (["--frr-at", "0.1", "2"], "frr_at = 2.0; it must be below 1"),
    "conditions of nothing": (["--by", "distance"], "name the data dirs that have them with --data"),
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
            assert "EER is 100.0000 %" in notes[0] and "--ties grouped" in notes[0]
            assert "EER is 50.0000 %" in notes[0]
            assert main([*words, "--ties", "grouped"]) == 0
            assert json.loads(capsys.readouterr().out)["eer"] == 0.5


def test_the_report_has_a_section_for_every_question_and_leads_to_no_voice_unasked(folder, capsys):
    conditions = ["utt_id\tplace"] + [
        f"{name}-{take}.wav\t{('near', 'far')[take % 2]}"
        for name in ("anna", "ben", "cleo", "dan")
        for take in range(4)
    ]
    (folder / "utt2cond").write_text("\n".join(conditions) + "\n")
    data = folder / "data"
    data.mkdir()
    names = sorted(line.split("\t")[0] for line in conditions[1:])
    for name in names:
        (data / name).write_bytes(b"RIFF")
    (data / "wav.scp").write_text("".join(f"{name} {data / name}\n" for name in names))
    (data / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in names))
    words = ["evaluate", folder / "trials", f"mine={folder}/scores", f"other={folder}/scores", "--intervals"]
    words += [
        "--bootstrap",
        "50",
        "--trial-speakers",
        data,
        "--by",
        "place",
        "--conditions",
        folder / "utt2cond",
    ]
    words += ["--llr", "--threshold", "0.5", "--report", folder / "out"]
    assert run(*words) == 0
    page = (folder / "out/report.html").read_text("utf-8")
    headings = ["trials", "Differences", "Calibration", "By place", "Hardest trials", "Speakers who fail"]
    assert re.findall(r'<h2 id="s\d+">(.*?)</h2>', page) == [*headings, "Provenance"]
    assert page.count("<figure>") == page.count("<svg") == page.count('role="img"') == 4
    assert "false reject" in page and "At the threshold 0.5000 (mine)" in page
    assert sha256_of(folder / "trials") in page and "24 target, 96 non-target" in page
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'aria-labelledby="(\S+)"', page)) <= set(ids)
    assert not re.findall(r'href="(?!#)', page) and "RIFF" not in page
    pictures = {path.stem for path in (folder / "out").glob("*.svg")}
    assert pictures == {"det", "scores", "reliability", "conditions"}
    assert run(*words, "--link-audio") == 0
    links = re.findall(r'href="(\.\./data/[^"]*)"', (folder / "out/report.html").read_text("utf-8"))
    assert links and all((folder / "out" / link).is_file() for link in links)
    capsys.readouterr()
    assert run("evaluate", folder / "trials", folder / "scores", "--link-audio") == 2
    assert "--link-audio goes with --report" in capsys.readouterr().err


def test_tables_and_the_report_name_their_operating_points(folder):
    words = ["evaluate", folder / "trials", f"a={folder}/scores", f"b={folder}/scores", "--p-target", "0.5"]
    words += ["--llr", "--threshold", "2", "--dcf", "0.05", "--frr-at", "0.1", "--roc"]
    words += ["--intervals", "--bootstrap", "20", "--speaker-before", "-"]
    names = [f"{name}{point}" for name in ("minDCF", "actDCF") for point in (" (0.5)", " (0.05)")]
    names += ["DCF at 2 (0.5)", "DCF at 2 (0.05)", "Cllr", "minCllr", "AUC", "ROCCH-EER"]
    names += ["FAR at 2", "FRR at 2", "FRR at FAR 0.1"]
    assert run(*words, "--tables", folder / "t.md", "--report", folder / "page.html") == 0
    text, page = (folder / "t.md").read_text(), (folder / "page.html").read_text("utf-8")
    head = text.splitlines()[2].strip("| ").split(" | ")
    assert head[:-4] == ["system", *(cell for name in ["EER", *names] for cell in (name, "95 %"))]
    assert {len(line.split(" | ")) for line in text.splitlines()[4:6]} == {len(head)}
    assert re.findall(r"^\| ([^|]*?) \| b: [^|]* \| a: ", text, re.M) == ["EER", *names]
    assert page.count('<th scope="col">DCF at 2 (0.5)</th>') == 1
    terms = re.findall("<dt>(.*?)</dt>", page)
    assert terms[5:] == ["actDCF", "DCF", "Cllr", "minCllr", "AUC", "ROCCH-EER", "FAR", "FRR", "p"]
    assert run(*words[:4], "--report", folder / "page.html") == 0
    terms = re.findall("<dt>(.*?)</dt>", (folder / "page.html").read_text("utf-8"))
    assert terms == ["EER", "minDCF", "95 %", "Threshold", "DET curve"]


def test_intervals_of_few_draws_say_so(folder, capsys):
    words = ["evaluate", folder / "trials", folder / "scores", "--intervals", "--speaker-before", "-"]
    for draws, scores in ((99, []), (100, []), (99, [f"b={folder}/scores"])):
        assert run(*words[:3], *scores, *words[3:], "--bootstrap", str(draws)) == 0
        told = (
            f"note: intervals and p of {draws} resamples (--bootstrap) are rough: from 100 on they are of use"
        )
        assert (told in capsys.readouterr().err) == (draws < 100)


def test_tables_and_plots_for_a_paper(folder, capsys):
    words = ["evaluate", folder / "trials", f"a_b={folder}/scores", f"other={folder}/scores"]
    words += ["--intervals", "--bootstrap", "50", "--speaker-before", "-"]
    assert run(*words, "--tables", folder / "t.tex", "--plot", folder / "det.pdf", "--width", "8.5cm") == 0
    latex = (folder / "t.tex").read_text()
    assert latex.count("\\toprule") == latex.count("\\bottomrule") == 2 and "a\\_b & " in latex
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 4 and r" \% " in latex
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", (folder / "det.pdf").read_bytes())
    assert float(box[1]) == pytest.approx(8.5 / 2.54 * 72, abs=0.1)
    assert run(*words, "--tables", folder / "t.md") == 0
    lines = (folder / "t.md").read_text().splitlines()
    assert lines[:3] == ["## Figures", "", lines[2]] and lines[2].startswith("| system | EER | 95 % |")
    assert {line.count("|") for line in lines[2:6]} == {10}
    for wrong, message in (
        (["--width", "8", "--plot", folder / "d.png"], "as in 8.5cm"),
        (["--tables", folder / "t.doc"], "a .md or a .tex file"),
    ):
        capsys.readouterr()
        assert run(*words, *wrong) != 0
        assert message in capsys.readouterr().err
