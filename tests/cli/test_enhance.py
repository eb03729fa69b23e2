import numpy as np
import pytest
import soundfile

from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir, Utterance, write_data_dir

GROUP = r"SV\d+_[256]_(?P<channel>\d+)_.*"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def himia(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for name in ("SV0333_2_{:02}_N0124", "SV0299_2_{:02}_N0001"):
        wav = 0.1 * rng.standard_normal(5000)
        for channel in range(4):
            path = tmp_path / f"{name.format(channel)}.wav"
            soundfile.write(path, np.roll(wav, 2 * channel), 16000)
            rows.append(Utterance(path.stem, str(path), path.stem[:6], 5000))
    path = tmp_path / "SV0299_7_01_S0096.wav"
    soundfile.write(path, wav, 16000)
    rows.append(Utterance(path.stem, str(path), "SV0299", 5000))
    write_data_dir(tmp_path / "data", rows)
    (tmp_path / "trials_mic").write_text(
        "SV0299_7_01_S0096.wav SV0333_2_{}_N0124.wav nontarget\n"
        "SV0299_7_01_S0096.wav SV0299_2_{}_N0001.wav target\n"
    )
    return tmp_path


def test_takes_are_enhanced_and_the_trial_list_fits_with_and_without_renaming(himia, capsys, sides_of_trials):
    from farvox.score.trials import read_trials

    words = ["--beamform", "mvdr", "--group", GROUP, "--trials", str(himia / "trials_mic"), "--jobs", "1"]
    assert main(["enhance", str(himia / "data"), str(himia / "out"), *words]) == 0
    said = capsys.readouterr()
    assert "2 takes of 4 utterances each; 1 utterances are of none" in said.err
    assert f"{himia / 'out'}: 3 utterances, 2 takes enhanced" in said.out
    out = DataDir.open(himia / "out")
    assert (himia / "out/trials_mic").read_text() == (
        "0 SV0299_7_01_S0096 SV0333_2_00_N0124\n1 SV0299_7_01_S0096 SV0299_2_00_N0001\n"
    )
    before, after = (
        sides_of_trials(read_trials(path).resolve(out.utt_ids))
        for path in (himia / "trials_mic", himia / "out/trials_mic")
    )
    assert before == after


def test_a_missing_channel_is_an_error_unless_it_is_allowed(himia, capsys):
    scp = himia / "data/wav.scp"
    scp.write_text(
        "".join(line for line in scp.read_text().splitlines(True) if not line.startswith("SV0333_2_02"))
    )
    words = [
        "enhance",
        str(himia / "data"),
        str(himia / "out"),
        "--beamform",
        "delay-and-sum",
        "--group",
        GROUP,
    ]
    assert main([*words, "--jobs", "1"]) == 1
    assert "'SV0333_2_00_N0124' has no channel 02" in capsys.readouterr().err
    assert not (himia / "out").exists()
    words += ["--jobs", "1", "--trials", str(himia / "trials_mic"), "--allow-missing-channels"]
    assert main(words) == 0
    assert "SV0333_2_00_N0124" in (himia / "out/trials_mic").read_text()


def test_nothing_to_do_and_two_ways_to_group_are_wrong_usage(himia, capsys):
    words = ["enhance", str(himia / "data"), str(himia / "out")]
    assert main(words) == 2
    assert "choose a --beamform, or --wpe" in capsys.readouterr().err
    assert main([*words, "--beamform", "mvdr", "--group", GROUP, "--by", "room"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main([*words, "--beamform", "mvdr"]) == 1
    assert "no file has several channels" in capsys.readouterr().err
