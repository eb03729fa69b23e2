"""``farvox prepare farfield``: lists near and across a room, of speakers and noise that no training has."""

import re
import shutil

import pytest

from farvox.cli.main import main
from farvox.datadir.kaldi import DataDir

SPEAKERS = ("0001", "0002", "0003")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, record):
    """Three speakers of 21 utterances, eight clips of noise in each of two classes, and no responses."""
    root = tmp_path_factory.mktemp("corpora")
    utterances = [(f"0{speaker}{take:04}", speaker) for speaker in SPEAKERS for take in range(21)]
    lists = root / "speechocean762/train"
    lists.mkdir(parents=True)
    entries = [f"{utt}\tWAVE/SPEAKER{speaker}/{utt}.WAV\n" for utt, speaker in utterances]
    (lists / "wav.scp").write_text("".join(entries))
    (lists / "utt2spk").write_text("".join(f"{utt}\t{speaker}\n" for utt, speaker in utterances))
    for utt, speaker in utterances:
        record(root / f"speechocean762/WAVE/SPEAKER{speaker}/{utt}.WAV")
    for number in range(8):
        record(root / f"noise_esc10/rain/{number}.flac", 1600)
        record(root / f"noise_esc10/dog/{number}.flac", 900)
    return root


def test_lists_of_chosen_speakers_follow_from_the_seed_to_the_byte(corpora, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        words = ["--speakers", "2-3", "--seed", str(seed)]
        assert main(["prepare", "farfield", str(corpora), str(tmp_path / name), *words]) == 0
    one, same, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "far-b/wav").iterdir()}
        for name in ("one", "same", "other")
    )
    assert one == same and len(one) == 20 and {*one} == {*other} and one != other
    enrol, near, far = (DataDir.open(tmp_path / "one" / name) for name in ("enrol", "near", "far-b"))
    assert enrol.speaker_ids.unique().sort().to_list() == ["so0002", "so0003"]
    assert not {*enrol.utt_ids} & {*near.utt_ids} and far.utt_ids.to_list() == [
        f"{each}-far-b" for each in near.utt_ids
    ]
    for name in ("near", "far-b"):
        lines = (tmp_path / f"one/{name}.trials").read_text().splitlines()
        assert len(lines) == 400 and sum(line.endswith(" target") for line in lines) == 200
    trained = DataDir.open(tmp_path / "one/noise-train").utt_ids.to_list()
    assert trained == ["dog-0", "dog-1", "rain-0", "rain-1"]  # of others, two clips each; four for the test
    assert not (tmp_path / "one/far-a").exists()


def test_what_a_list_cannot_be_made_of_is_named(corpora, tmp_path, capsys):
    def refused(*words):
        assert main(["prepare", "farfield", str(corpora), str(tmp_path / "out"), *words]) == 1
        return capsys.readouterr().err

    assert f"{corpora}/rirs_gtu: no such folder; expected speechocean762/" in refused()
    for wrong in ("3", "2-4", "0-2", "3-3"):
        assert f"--speakers {wrong}: " in (err := refused("--speakers", wrong)) and "has speakers 1-3;" in err
    few = tmp_path / "few"
    shutil.copytree(corpora, few)
    lines = (few / "speechocean762/train/wav.scp").read_text().splitlines(keepends=True)
    (few / "speechocean762/train/wav.scp").write_text("".join(lines[:-2]))
    words = ["prepare", "farfield", str(few), str(tmp_path / "out"), "--speakers"]
    assert main([*words, "2-3"]) == 1
    told = capsys.readouterr().err
    assert re.search(r"1 speakers, so0003 first, have fewer than 20 utterances", told), told
    assert "choose others with --speakers" in told and main([*words, "1-2"]) == 0
    shutil.rmtree(few / "noise_esc10/rain")
    shutil.rmtree(few / "noise_esc10/dog")
    assert main([*words, "1-2"]) == 1 and "no noise found" in capsys.readouterr().err
