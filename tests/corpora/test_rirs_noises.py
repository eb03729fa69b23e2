from pathlib import Path

import pytest

from farvox.corpora.rirs_noises import prepare_rirs_noises
from farvox.errors import CorpusError

REAL = "real_rirs_isotropic_noises"


@pytest.fixture
def rirs(tmp_path, record) -> Path:
    root = tmp_path / "RIRS_NOISES"
    for room in ("smallroom", "mediumroom", "largeroom"):
        for name in ("Room001/Room001-00001", "Room200/Room200-00100"):
            record(root / "simulated_rirs" / room / f"{name}.wav")
    record(root / REAL / "RVB2014_type1_rir_largeroom1_far_angla.wav", 4000, channels=8)
    record(root / REAL / "RWCP_type2_rir_cirline_ofc_imp_rev.wav")
    record(root / REAL / "RVB2014_type1_noise_largeroom1_1.wav", channels=8)
    record(root / "pointsource_noises/noise-free-sound-0000.wav")
    return root


def test_each_size_of_room_and_the_real_ones_become_a_dir(rirs, tmp_path, notes):
    made = prepare_rirs_noises(rirs, tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["smallroom", "mediumroom", "largeroom", "real"]
    assert made[1].utt_ids.to_list() == ["Room001-00001", "Room200-00100"]
    assert made[1].wav_paths[0] == str(rirs / "simulated_rirs/mediumroom/Room001/Room001-00001.wav")
    assert sorted(path.name for path in (tmp_path / "out/real").iterdir()) == ["utt2num_samples", "wav.scp"]


def test_a_response_of_several_channels_is_one_recording_and_noises_are_none(rirs, tmp_path, notes):
    *_, real = prepare_rirs_noises(rirs, tmp_path / "out", note=notes.append)
    assert real.table.select("utt_id", "num_samples").rows() == [
        ("RVB2014_type1_rir_largeroom1_far_angla", 4000),
        ("RWCP_type2_rir_cirline_ofc_imp_rev", 800),
    ]


def test_the_publishers_list_says_which_real_files_are_responses(rirs, tmp_path, notes):
    line = f"--rir-id 00001 --room-id RWCP_2 RIRS_NOISES/{REAL}/RWCP_type2_rir_cirline_ofc_imp_rev.wav"
    (rirs / REAL / "rir_list").write_text(f"{line}\n")
    *_, real = prepare_rirs_noises(rirs.parent, tmp_path / "out", note=notes.append)
    assert real.utt_ids.to_list() == ["RWCP_type2_rir_cirline_ofc_imp_rev"]


@pytest.mark.parametrize("name", ["data/RIR_Noise", "data/RIR_Noise/rir_list"])
def test_the_baselines_list_of_paths_is_sorted_into_rooms(rirs, tmp_path, record, notes, name):
    own = record(tmp_path / "measured/lounge.wav")
    paths = [
        rirs / f"simulated_rirs/{room}/Room001/Room001-00001.wav" for room in ("mediumroom", "smallroom")
    ]
    (tmp_path / "data/RIR_Noise").mkdir(parents=True)
    (tmp_path / "data/RIR_Noise/rir_list").write_text("".join(f"{path}\n" for path in (*paths, own)))
    made = prepare_rirs_noises(tmp_path / name, tmp_path / "out", note=notes.append)
    assert [each.path.name for each in made] == ["smallroom", "mediumroom", "real"]
    assert made[2].utt_ids.to_list() == ["lounge"]
    assert notes[0] == f"{tmp_path / name}: nothing for largeroom"


def test_another_tree_is_refused_with_what_was_expected(tmp_path, record, notes):
    record(tmp_path / "corpus/a.wav")
    with pytest.raises(CorpusError, match=r"no room impulse response found; expected simulated_rirs/"):
        prepare_rirs_noises(tmp_path / "corpus", tmp_path / "out", note=notes.append)
