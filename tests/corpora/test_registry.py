import subprocess
import sys

import pytest

from farvox.corpora.registry import PREPARERS, PrepareOptions, load_preparer, prepare
from farvox.errors import CorpusError, UsageError


def test_every_corpus_of_the_issue_is_listed():
    assert list(PREPARERS) == [
        "voxceleb1", "voxceleb2", "himia", "ffsvc2020", "ffsvc2022", "3dspeaker", "cnceleb", "voices",
        "musan", "rirs_noises", "speechocean762", "an4", "farfield", "across",
        "folder", "synthetic", "noise",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PREPARERS)
def test_every_listed_function_is_there_and_documented(name):
    function = load_preparer(name)
    assert function.__name__ == f"prepare_{name}"
    assert function.__doc__ and PREPARERS[name].summary


def test_listing_the_corpora_imports_none_of_them():
    script = (
        "import sys, farvox.corpora.registry;"
        "print(sorted(set(sys.modules) & {'numpy', 'polars', 'av', 'soundfile', 'farvox.corpora.himia'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_corpus_is_prepared_by_name(tmp_path, record, notes):
    record(tmp_path / "mine/alice/a.wav")
    options = PrepareOptions(jobs=1, trials=None)
    (made,) = prepare("folder", str(tmp_path / "mine"), str(tmp_path / "out"), options, note=notes.append)
    assert made.utt_ids.to_list() == ["alice-a"]


def test_an_unknown_corpus_is_refused_with_the_nearest_name(tmp_path, notes):
    with pytest.raises(CorpusError, match=r"unknown corpus 'voxceleb'; did you mean 'voxceleb\d'\?; farvox"):
        prepare("voxceleb", tmp_path, tmp_path, note=notes.append)


def test_an_option_that_the_corpus_does_not_take_is_refused(tmp_path, notes):
    with pytest.raises(CorpusError, match="--convert means nothing to the corpus himia; it takes --jobs"):
        prepare("himia", tmp_path, tmp_path / "out", PrepareOptions(convert="flac"), note=notes.append)


def test_no_jobs_at_all_are_refused():
    with pytest.raises(UsageError, match="jobs = 0; it must be at least 1"):
        PrepareOptions(jobs=0)
