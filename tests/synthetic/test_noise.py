"""Noise that is made: every kind in both parts, the same from the same seed."""

import pytest

from farvox.errors import CorpusError
from farvox.progress import silent
from farvox.synthetic.noise import prepare_noise


@pytest.mark.slow
def test_every_kind_is_in_both_parts_and_a_seed_makes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        train, test = prepare_noise("16", tmp_path / name, note=silent, seed=3, jobs=1)
    assert (len(train), len(test)) == (12, 4)
    kinds = [{utt_id.rstrip("0123456789") for utt_id in part.utt_ids} for part in (train, test)]
    assert kinds == [{"coloured", "hum", "machine", "babble"}] * 2
    for path in (tmp_path / "one/audio").glob("*.flac"):
        assert path.read_bytes() == (tmp_path / "two/audio" / path.name).read_bytes()


@pytest.mark.parametrize("number", ["3", "many", "-16", "9" * 5000])
def test_a_number_that_makes_no_two_parts_is_refused(tmp_path, number):
    with pytest.raises(CorpusError, match="give the number of clips to make as SOURCE, from 16"):
        prepare_noise(number, tmp_path, note=silent)
