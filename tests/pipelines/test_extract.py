import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from farvox.audio.files import read_audio, write_audio
from farvox.datadir.check import check_audio, check_data_dir
from farvox.datadir.embeddings import EmbeddingSet
from farvox.datadir.kaldi import DataDir, listing_of
from farvox.errors import AudioError, JobError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import FrontEndConfig
from farvox.models.registry import build_model
from farvox.pipelines.extract import extract
from farvox.zoo import Model, TorchEmbedder, load_model, open_embedder


def make_model(frontend):
    torch.manual_seed(0)
    network = build_model("ecapa", num_mels=frontend.num_mels, channels=32, embedding_dim=16, bottleneck=16)
    return Model(
        network, build_frontend(frontend), {"frontend": frontend.to_dict(), "model": {"name": "ecapa"}}
    )


def extracted(model, data_dir, **options):
    return extract(TorchEmbedder(model), data_dir, **options)


@pytest.fixture(params=["kaldi-fbank", "ffsvc-mel"])
def model(request):
    return make_model(FrontEndConfig(kind=request.param, num_mels=24))


def data_dir(folder, lines):
    """A data dir of only a wav.scp."""
    folder.mkdir(exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{utt_id} {path}\n" for utt_id, path in lines))
    return DataDir.open(folder)


@pytest.fixture
def lines(corpus):
    paths = sorted((corpus / "dev" / "wav").iterdir())
    return [(f"utt-{path.stem}", path) for path in paths]


def test_an_embedding_does_not_depend_on_the_other_utterances(model, lines, tmp_path):
    together = extracted(model, data_dir(tmp_path / "all", lines))
    for row in (0, 5):
        alone = extracted(model, data_dir(tmp_path / "one", [lines[row]]), threads=1)
        assert np.array_equal(alone.embeddings[0], together.embeddings[row])
    assert together.embeddings.dtype == np.float32 and together.embeddings.shape == (9, 16)


def test_the_order_is_that_of_wav_scp(model, lines, tmp_path):
    there = extracted(model, data_dir(tmp_path / "a", lines))
    back = extracted(model, data_dir(tmp_path / "b", lines[::-1]), threads=3)
    assert back.utt_ids == [utt_id for utt_id, _ in lines[::-1]]
    assert np.array_equal(back.embeddings, there.embeddings[::-1])


def test_an_embedding_is_what_the_network_gives_for_the_whole_file(model, lines, tmp_path):
    found = extracted(model, data_dir(tmp_path / "a", lines[:1]))
    model.network.eval()
    with torch.no_grad():
        wav_BT = torch.from_numpy(read_audio(lines[0][1]))[None]
        expected = model.network(model.frontend(wav_BT))[0].numpy()
    assert np.array_equal(found.embeddings[0], expected)
    assert abs(np.linalg.norm(expected) - 1) > 1e-3


def test_what_made_the_embeddings_is_written_down(model, lines, tmp_path):
    found = extracted(model, data_dir(tmp_path / "a", lines[:1]))
    assert found.meta["data_dir"] == str(tmp_path / "a") and found.meta["precision"] == "fp32"
    assert found.meta["frontend"] == model.config["frontend"] and found.meta["model"] == {"name": "ecapa"}


def test_what_is_found_is_written_and_said(model, lines, tmp_path):
    notes: list[str] = []
    found = extracted(model, data_dir(tmp_path / "a", lines), out=tmp_path / "out", note=notes.append)
    assert notes == [f"9 embeddings: {tmp_path / 'out'}"]
    saved = EmbeddingSet.load(tmp_path / "out")
    assert saved.utt_ids == found.utt_ids and np.array_equal(saved.embeddings, found.embeddings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_embeddings_of_a_data_dir_that_moved_are_replaced_and_of_another_one_are_not(model, lines, tmp_path):
    extracted(model, data_dir(tmp_path / "a", lines[:2]), out=tmp_path / "out")
    with pytest.raises(JobError, match=r"out: holds embeddings of .*a, not of .*b; they are not replaced"):
        extracted(model, data_dir(tmp_path / "b", lines[:2]), out=tmp_path / "out")
    (tmp_path / "a").rename(tmp_path / "c")
    assert len(extracted(model, DataDir.open(tmp_path / "c"), out=tmp_path / "out")) == 2
    assert EmbeddingSet.load(tmp_path / "out").meta["data_dir"] == str(tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / "d")
    with pytest.raises(JobError, match=r"out: holds embeddings of .*c, not of .*b; they are not replaced"):
        extracted(model, data_dir(tmp_path / "b", lines[1:3]), out=tmp_path / "out")


@pytest.fixture
def many(lines, tmp_path):
    """More utterances than are kept at a time: nine recordings under many names."""
    return data_dir(
        tmp_path / "many", [(f"{n:03d}-{utt_id}", path) for n in range(9) for utt_id, path in lines]
    )


SCRIPT = """
import sys, time
from farvox.datadir.kaldi import DataDir, listing_of
from farvox.pipelines.extract import extract
from farvox.zoo import open_embedder

class Slow:
    def __init__(self, embedder):
        self.embedder = embedder
    def __getattr__(self, name):
        return getattr(self.embedder, name)
    def embed(self, wav_T):
        time.sleep(0.02)
        return self.embedder.embed(wav_T)

embedder = open_embedder(sys.argv[1], "cpu", backend="torch")
extract(Slow(embedder), DataDir.open(sys.argv[2]), out=sys.argv[3], threads=int(sys.argv[4]), quality=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_an_extraction_that_is_killed_goes_on_and_ends_the_same(threads, many, model_folder, tmp_path):
    """Killed outright as soon as something is kept; then what is kept is not embedded again."""
    (tmp_path / "script.py").write_text(SCRIPT)
    embedder = open_embedder(str(model_folder), "cpu", backend="torch")
    extract(embedder, many, out=tmp_path / "whole", threads=2, quality=True)
    words = [str(model_folder), str(many.path), str(tmp_path / "killed"), str(threads)]
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), *words])
    kept = tmp_path / "killed.unfinished/000000000.f32"
    while not kept.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed").exists()
    for wrong, options in (("quality true, now false", {}), ("other: model", {"quality": True})):
        other = TorchEmbedder(make_model(FrontEndConfig(num_mels=24))) if options else embedder
        with pytest.raises(JobError, match=rf"killed\.unfinished: was begun with .*{wrong}"):
            extract(other, many, out=tmp_path / "killed", **options)
    embedded: list[int] = []

    class Counting(TorchEmbedder):
        def embed(self, wav_T):
            embedded.append(len(wav_T))
            return super().embed(wav_T)

    extract(Counting(load_model(model_folder)), many, out=tmp_path / "killed", threads=threads, quality=True)
    assert len(embedded) <= 81 - 32
    assert not (tmp_path / "killed.unfinished").exists()
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == ["embeddings.npy", "meta.json", "utt2measures", "utt2quality", "utt_ids.txt"]
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_extraction_that_broke_off_keeps_what_is_done(many, model, lines, tmp_path):
    wav_scp = many.path / "wav.scp"
    text = wav_scp.read_text()
    broken = tmp_path / "broken.wav"
    *most, last = text.splitlines(keepends=True)
    wav_scp.write_text("".join([*most, f"{last.split()[0]} {broken}\n"]))
    with pytest.raises(AudioError, match="broken"):
        extracted(model, DataDir.open(many.path), out=tmp_path / "out")
    assert len(list((tmp_path / "out.unfinished").glob("*.f32"))) == 3
    assert (tmp_path / "out.unfinished/000000064.rejected").exists()
    shutil.copy(lines[8][1], broken)
    found = extracted(model, DataDir.open(many.path), out=tmp_path / "out")
    wav_scp.write_text(text)
    assert np.array_equal(found.embeddings, extracted(model, many).embeddings)


def test_a_recording_that_is_replaced_before_an_extraction_goes_on_is_embedded_again(lines, tmp_path):
    model, notes = make_model(FrontEndConfig(num_mels=24)), list[str]()
    paths = [tmp_path / f"{number:02d}.wav" for number in range(40)]
    for number, path in enumerate(paths[:-1]):
        shutil.copy(lines[number % 9][1], path)
    found = data_dir(tmp_path / "data", [(path.stem, path) for path in paths])
    with pytest.raises(AudioError, match="39"):
        extracted(model, found, out=tmp_path / "out")
    shutil.copy(lines[8][1], paths[0])
    shutil.copy(lines[8][1], paths[39])
    gone_on = extracted(model, found, out=tmp_path / "out", note=notes.append)
    assert "utterances embedded: 32 of 40 are done again" in notes[0]
    assert np.array_equal(gone_on.embeddings, extracted(model, found).embeddings)
    assert np.array_equal(gone_on.embeddings[0], gone_on.embeddings[8])


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_files_of_other_rates_are_read_at_the_models(rate, lines, tmp_path):
    import soxr

    model = make_model(FrontEndConfig(num_mels=24, high_freq=3500.0))
    wav_T = read_audio(lines[0][1])
    write_audio(tmp_path / "other.wav", soxr.resample(wav_T, 16000, rate), rate)
    found = extracted(model, data_dir(tmp_path / "d", [lines[0], ("other", tmp_path / "other.wav")]))
    one, other = found.embeddings / np.linalg.norm(found.embeddings, axis=1, keepdims=True)
    assert one @ other > 0.99


def test_m4a_is_read(model, lines, tmp_path):
    import av

    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        wav_T = np.tile(read_audio(lines[0][1]), 3)
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    found = extracted(model, data_dir(tmp_path / "d", [("m4a", tmp_path / "a.m4a")]))
    assert np.isfinite(found.embeddings).all()


@pytest.mark.parametrize("fault", ["missing", "short", "silent", "truncated", "text", "empty"])
def test_an_utterance_that_cannot_be_embedded_is_named(fault, model, lines, tmp_path):
    path = tmp_path / "bad.wav"
    if fault == "short":
        write_audio(path, np.full(200, 0.1))
    elif fault == "silent":
        write_audio(path, np.zeros(8000))
    elif fault == "truncated":
        path.write_bytes(lines[0][1].read_bytes()[:9000])
    elif fault in ("text", "empty"):
        path.write_text("not audio\n" * (fault == "text"))
    with pytest.raises(AudioError, match=rf"utterance 'the-bad-one'.*{path}"):
        extracted(model, data_dir(tmp_path / "d", [*lines[:3], ("the-bad-one", path), *lines[3:]]))


def test_a_network_that_needs_more_frames_than_there_are_names_the_utterance(lines, tmp_path):
    torch.manual_seed(0)
    frontend = FrontEndConfig(num_mels=24)
    network = build_model("xvector", num_mels=24, channels=16, pooled_channels=32, embedding_dim=16)
    config = {"frontend": frontend.to_dict(), "model": {"name": "xvector"}}
    model = Model(network, build_frontend(frontend), config)
    write_audio(tmp_path / "a.wav", 0.1 * np.sin(np.arange(model.min_samples)))
    assert extracted(model, data_dir(tmp_path / "d", [("a", tmp_path / "a.wav")])).embeddings.shape == (1, 16)
    write_audio(tmp_path / "b.wav", 0.1 * np.sin(np.arange(model.min_samples - 1)))
    with pytest.raises(AudioError, match=r"'b': .* samples; the model needs at least"):
        extracted(model, data_dir(tmp_path / "d", [("b", tmp_path / "b.wav")]))


def test_a_data_dir_needs_no_more_than_wav_scp_but_may_have_more(model, corpus, tmp_path):
    shutil.copy(corpus / "dev" / "wav.scp", tmp_path)
    one, other = (extracted(model, DataDir.open(folder)) for folder in (tmp_path, corpus / "dev"))
    assert one.utt_ids == other.utt_ids and np.array_equal(one.embeddings, other.embeddings)


def test_the_quality_of_recordings_is_estimated_when_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    bursts_T = (0.3 * np.sin(np.arange(32_000) / 5) * (np.arange(32_000) % 8000 < 4000)).astype(np.float32)
    for name, level in (("quiet", 0.001), ("noisy", 0.1)):
        wav_T = bursts_T + level * rng.standard_normal(32_000).astype(np.float32)
        write_audio(tmp_path / f"{name}.wav", wav_T, 16_000)
    source = data_dir(tmp_path / "data", [(name, tmp_path / f"{name}.wav") for name in ("quiet", "noisy")])
    model = make_model(FrontEndConfig(kind="kaldi-fbank", num_mels=24))
    assert extracted(model, source).quality is None
    with_quality = extracted(model, source, quality=True)
    quiet, noisy = with_quality.quality
    assert quiet > noisy + 30
    np.testing.assert_array_equal(with_quality.embeddings, extracted(model, source).embeddings)


def test_a_packed_data_dir_has_the_same_embeddings(model, corpus, tmp_path):
    from farvox.datadir import PackOptions
    from farvox.datadir.pack import pack

    packed = pack(corpus / "dev", tmp_path / "packed", PackOptions(codec="flac", jobs=1))
    found, expected = (extracted(model, each) for each in (packed, DataDir.open(corpus / "dev")))
    assert found.utt_ids == expected.utt_ids
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def bad_lines(folder):
    """Utterances that cannot be embedded, each for a reason of its own."""
    rng = np.random.default_rng(0)
    kinds = {
        "zeros": np.zeros(8000), "constant": np.full(8000, 0.25), "lsb": rng.integers(-1, 2, 8000) / 32768,
        "short": np.full(100, 0.1),
    }  # fmt: skip
    for name, wav_T in kinds.items():
        write_audio(folder / f"{name}.wav", wav_T)
    soundfile.write(folder / "faint.wav", 1e-20 * rng.standard_normal(8000), 16000, subtype="FLOAT")
    (folder / "text.wav").write_text("no audio")
    os.mkfifo(folder / "pipe.wav")
    return [(name, folder / f"{name}.wav") for name in (*kinds, "faint", "text", "pipe", "absent")]


def test_all_that_cannot_be_embedded_is_listed_and_the_others_are_kept(model, lines, tmp_path):
    bad = bad_lines(tmp_path)
    data, out, notes = data_dir(tmp_path / "d", [*bad[:4], *lines, *bad[4:]]), tmp_path / "out", []
    with pytest.raises(
        AudioError, match=r"8 of 17 utterances cannot be embedded; .*rejected\.tsv names each"
    ):
        extracted(model, data, out=out, note=notes.append)
    assert not out.exists()
    listed = (tmp_path / "out.unfinished/rejected.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed[1:]] == sorted(name for name, _ in bad)
    assert sorted(note.split("'")[1] for note in notes) == sorted(name for name, _ in bad)
    reasons = dict(line.split("\t") for line in listed[1:])
    assert all("silence" in reasons[name] for name in ("zeros", "constant", "lsb", "faint"))
    assert "pipe" in reasons["pipe"] and "no such file" in reasons["absent"]
    found = extracted(model, data, out=out, skip_bad=True)
    good = extracted(model, data_dir(tmp_path / "good", lines))
    assert found.utt_ids == good.utt_ids and np.array_equal(found.embeddings, good.embeddings)
    assert (out / "rejected.tsv").read_text().splitlines() == listed
    assert EmbeddingSet.load(out).meta["rejected"] == 8
    with pytest.raises(AudioError, match="8 of 8"):
        extracted(model, data_dir(tmp_path / "none", bad), skip_bad=True)


def encoded(wav_T, path, **options):
    soundfile.write(path, wav_T, options.pop("rate", 16000), **options)
    return path


def test_check_audio_names_the_utterances_that_extract_rejects(tmp_path):
    """Broken and odd audio of many kinds, as files, as stretches and in an ark."""
    rng = np.random.default_rng(0)
    noise_T = 0.1 * rng.standard_normal(32000)
    stereo_TC = np.stack([noise_T, np.zeros(32000)], axis=1)
    nan_TC = stereo_TC.copy()
    nan_TC[5] = np.nan
    half_nan_TC = stereo_TC.copy()
    half_nan_TC[5, 1] = np.inf
    odd = {"good": noise_T, "short": noise_T[:50], "empty": noise_T[:0], "loud": 30 * noise_T}
    odd |= {"zeros": 0 * noise_T, "dc": 0 * noise_T + 0.25, "lsb": rng.choice([-1, 1], 32000) / 32768}
    odd |= {"left": stereo_TC, "right": stereo_TC[:, ::-1]}
    at = {name: encoded(wav, tmp_path / f"{name}.wav", subtype="PCM_16") for name, wav in odd.items()}
    floats = {"faint": 1e-20 * noise_T, "nan": nan_TC, "half-nan": half_nan_TC}
    at |= {name: encoded(wav, tmp_path / f"{name}.wav", subtype="FLOAT") for name, wav in floats.items()}
    at["8k"] = encoded(noise_T[:16000], tmp_path / "8k.wav", rate=8000)
    at["8k-short"] = encoded(noise_T[:150], tmp_path / "8k-short.wav", rate=8000)
    at["48k"] = encoded(np.repeat(noise_T, 3), tmp_path / "48k.flac", rate=48000)
    at["500-hz"] = encoded(noise_T[:4000], tmp_path / "500.wav", rate=500)
    for kind in ("flac", "ogg"):
        at[kind] = encoded(noise_T, tmp_path / f"x.{kind}")
        content = at[kind].read_bytes()
        at[f"{kind}-cut"] = tmp_path / f"cut.{kind}"
        at[f"{kind}-cut"].write_bytes(content[: len(content) // 2])
        middle = len(content) // 2
        at[f"{kind}-bad"] = tmp_path / f"bad.{kind}"
        at[f"{kind}-bad"].write_bytes(content[:middle] + bytes(400) + content[middle + 400 :])
    good = at["good"].read_bytes()
    for name, content in {
        "cut": good[:9000],
        "text": b"not audio",
        "nothing": b"",
        "head": good[:30],
    }.items():
        at[name] = tmp_path / f"made-{name}.wav"
        at[name].write_bytes(content)
    at["absent"], at["folder"] = tmp_path / "absent.wav", tmp_path
    (tmp_path / "raw.ark").write_bytes(b"good " + good + b"cut " + good[:9000])
    at["ark-good"], at["ark-cut"] = f"{tmp_path}/raw.ark:5", f"{tmp_path}/raw.ark:{9 + len(good)}"
    at["ark-beside"] = f"{tmp_path}/raw.ark:7"
    encoded(np.concatenate([noise_T, 0 * noise_T]), tmp_path / "long.wav")
    at["long"] = tmp_path / "long.wav"
    folder = tmp_path / "data"
    data_dir(folder, sorted(at.items()))
    segments = [f"{name} {name} 0 -1" for name in at]
    segments += ["s-good long 0 1.5", "s-over good 1 2.3", "s-silent long 2.5 3.5", "s-late long 4 5"]
    segments += ["s-beyond long 1 4.6", "s-brief long 1 1.001", "s-channel long 0 1 1", "s-left right 0 1 0"]
    segments += ["s-right right 0 1 1", "s-of-absent absent 0 1", "s-of-cut cut 0 0.1"]
    for with_segments in (False, True):
        if with_segments:
            (folder / "segments").write_text("".join(f"{line}\n" for line in sorted(segments)))
        source = DataDir.open(folder)
        model = make_model(FrontEndConfig(kind="kaldi-fbank", num_mels=24))
        found = extracted(model, source, skip_bad=True)
        rejected = set(source.utt_ids) - set(found.utt_ids)
        found_by_check = list(check_audio(folder))
        faults = [fault for fault in found_by_check if not fault.is_note]
        assert [fault.line for fault in found_by_check if "several rates" in fault.what]
        assert {fault.what.split("'")[1] for fault in faults} == rejected
        assert all(fault.file == str(listing_of(source.path)) for fault in faults)
        assert all(source.utt_ids[fault.line - 1] == fault.what.split("'")[1] for fault in faults)
        usable = {"good", "left", "8k", "48k", "flac", "ogg", "ark-good", "half-nan", "loud"}
        unusable = {"zeros", "dc", "lsb", "faint", "nan", "right", "cut", "absent", "ark-cut", "short"}
        assert not usable & rejected and unusable <= rejected
    assert {"s-good", "s-over", "s-right"} & rejected == set()
    assert {"s-silent", "s-late", "s-beyond", "s-brief", "s-channel", "s-left", "s-of-absent"} <= rejected
    assert len(at) >= 25
    beyond = {fault.what.split("'")[1] for fault in check_data_dir(folder) if fault.file.endswith("segments")}
    assert beyond == {"s-late", "s-beyond", "s-channel", "empty"}
