import math
import os
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farvox.errors import AudioError
from farvox.features.fbank import build_frontend
from farvox.features.frontend import KINDS, FrontEndConfig
from farvox.metrics.detection import detection_error
from farvox.zoo import Card, open_embedder
from farvox.zoo.embedder import embed_files
from farvox.zoo.graph import write_graph

GOLDEN = Path(__file__).parents[1] / "golden"
WAVEFORMS = runpy.run_path(str(GOLDEN / "make_features.py"))["waveforms"]()
TONE = np.round(30000 * np.sin(2 * np.pi * 3011 / 16000 * np.arange(16000))).astype(np.float32) / 32768
KALDI_WINDOWS = {"povey": "povey", "hamming": "hamming", "hann": "hanning"}


def real_speech(count):
    """(name, wav_T) of utterances spread over two corpora."""
    import soundfile

    if "FARVOX_CORPORA" not in os.environ:
        pytest.skip("needs real speech: set FARVOX_CORPORA")
    root = Path(os.environ["FARVOX_CORPORA"])
    for pattern in ("speechocean762/WAVE", "an4/wav"):
        paths = sorted((root / pattern).rglob("*.flac"))
        for path in paths[:: max(1, len(paths) // count)]:
            yield path.stem, soundfile.read(path, dtype="float32")[0]


def kaldi_native_fbank(wav_T, *, scale, window="povey", num_mels=80, low_freq=20.0, high_freq=0.0):
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = KALDI_WINDOWS[window]
    options.mel_opts.num_bins = num_mels
    options.mel_opts.low_freq = low_freq
    options.mel_opts.high_freq = high_freq
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16000, (wav_T * np.float32(scale)).tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def features(wav_T, **config):
    return build_frontend(FrontEndConfig(**config))(torch.from_numpy(wav_T)[None])[0].numpy()


@pytest.mark.parametrize("scale", [32768.0, 1.0])
def test_fbank_is_kaldis_on_real_speech(scale):
    """Within 1e-3 are 99.99 % of the values, within 1e-2 all; at 32768 all that are less than 95 dB down."""
    frontend = build_frontend(FrontEndConfig(sample_scale=scale, mean="none"))
    gaps, depths, utterances = [], [], 0
    for _, wav_T in real_speech(20):
        ours_FM = frontend(torch.from_numpy(wav_T)[None])[0].numpy()
        theirs_FM = kaldi_native_fbank(wav_T, scale=scale)
        gaps.append(np.abs(ours_FM - theirs_FM).ravel())
        depths.append((theirs_FM.max(axis=1, keepdims=True) - theirs_FM).ravel())
        utterances += 1
    gap, depth = np.concatenate(gaps), np.concatenate(depths) * 10 / math.log(10)
    assert utterances >= 40
    assert np.mean(gap < 1e-3) >= 0.9999
    assert gap[depth < 75].max() < 1e-3
    assert gap[depth < (95 if scale > 1 else np.inf)].max() < 1e-2


def test_fbank_of_a_tone_is_kaldis_down_to_95_decibels():
    theirs_FM = kaldi_native_fbank(TONE, scale=32768)
    gap_FM = np.abs(features(TONE, mean="none") - theirs_FM)
    depth_FM = (theirs_FM.max(axis=1, keepdims=True) - theirs_FM) * 10 / math.log(10)
    assert gap_FM[depth_FM < 75].max() < 1e-3
    assert gap_FM[depth_FM < 95].max() < 1e-2


# One frame, three, and more than go into one block; without and with DC.
@pytest.mark.parametrize("num_samples", [400, 720, 80_000])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_fbank_of_noise_is_kaldis(num_samples, level):
    noise_BT = level + 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(0))
    frontend = build_frontend(FrontEndConfig(mean="none"))
    theirs_BFM = np.stack([kaldi_native_fbank(wav_T, scale=32768) for wav_T in noise_BT.numpy()])
    in_steps_of_two_BT = noise_BT.repeat_interleave(2, dim=1)[:, ::2]
    for wav_BT in (noise_BT, in_steps_of_two_BT):
        np.testing.assert_allclose(frontend(wav_BT).numpy(), theirs_BFM, atol=1e-3, rtol=0)


@pytest.mark.parametrize("window", list(KALDI_WINDOWS))
@pytest.mark.parametrize("scale", [32768.0, 1.0])
def test_fbank_is_kaldis_with_every_window(window, scale):
    for wav_T in WAVEFORMS.values():
        ours_FM = features(wav_T, sample_scale=scale, window=window, mean="none")
        theirs_FM = kaldi_native_fbank(wav_T, scale=scale, window=window)
        np.testing.assert_allclose(ours_FM, theirs_FM, atol=1e-3, rtol=0)


def test_fbank_is_kaldis_with_other_filters():
    ours_FM = features(WAVEFORMS["noise"], num_mels=40, low_freq=60.0, high_freq=-400.0, mean="none")
    theirs_FM = kaldi_native_fbank(
        WAVEFORMS["noise"], scale=32768, num_mels=40, low_freq=60.0, high_freq=-400.0
    )
    np.testing.assert_allclose(ours_FM, theirs_FM, atol=1e-3, rtol=0)


def test_silence_has_the_floor_of_kaldi():
    feats_FM = features(np.zeros(1600, dtype=np.float32), mean="none")
    np.testing.assert_allclose(feats_FM, np.log(np.finfo(np.float32).eps), rtol=1e-6)


@pytest.mark.parametrize("name", list(WAVEFORMS))
def test_ffsvc_mel_is_the_baselines(name):
    golden = np.load(GOLDEN / "features.npz")
    log_mel_FM = features(WAVEFORMS[name], kind="ffsvc-mel", mean="none")
    np.testing.assert_allclose(log_mel_FM, golden[f"{name}.log_mel"], atol=1e-4, rtol=0)
    normalised_FM = features(WAVEFORMS[name], kind="ffsvc-mel")
    np.testing.assert_allclose(normalised_FM, golden[f"{name}.normalised"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", list(WAVEFORMS))
def test_speechbrain_fbank_is_speechbrains(name):
    golden = np.load(GOLDEN / "speechbrain.npz")
    log_mel_FM = features(WAVEFORMS[name], kind="speechbrain-fbank", mean="none")
    np.testing.assert_allclose(log_mel_FM[::3], golden[f"{name}.log_mel"], atol=1e-4, rtol=0)
    normalised_FM = features(WAVEFORMS[name], kind="speechbrain-fbank")
    np.testing.assert_allclose(normalised_FM[::3], golden[f"{name}.normalised"], atol=1e-4, rtol=0)


def speechbrain_fbank(wav_T):
    """What SpeechBrain's recipe says of its features, in whole."""
    wav_BT, window_N = torch.from_numpy(wav_T)[None], torch.hamming_window(400)
    spectrum = torch.stft(wav_BT, 400, 160, 400, window_N, pad_mode="constant", return_complex=True)
    power_FK = torch.view_as_real(spectrum[0].T).pow(2).sum(-1)
    hz = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 82) / 2595) - 1)
    slope_KM = (torch.linspace(0, 8000, 201)[:, None] - hz[1:-1]) / (hz[1:-1] - hz[:-2])
    decibels_FM = 10 * (power_FK @ (1 - slope_KM.abs()).clamp(min=0)).clamp(min=1e-10).log10()
    decibels_FM = decibels_FM.clamp(min=float(decibels_FM.max()) - 80)
    return (decibels_FM - decibels_FM.mean(dim=0)).numpy()


def test_speechbrain_fbank_is_its_description_on_real_speech():
    """Of real speech many filters are below the 80 decibels, and some near the roundings."""
    gaps = {
        name: np.abs(features(wav_T, kind="speechbrain-fbank") - speechbrain_fbank(wav_T)).max()
        for name, wav_T in real_speech(20)
    }
    assert len(gaps) >= 40
    assert {name: gap for name, gap in gaps.items() if not gap < 1e-4} == {}


def test_the_floor_of_80_decibels_is_of_each_utterance():
    frontend = build_frontend(FrontEndConfig(kind="speechbrain-fbank", mean="none"))
    loud_BT = torch.from_numpy(np.stack([TONE, TONE / 64]))
    loud_BFM = frontend(loud_BT)
    assert loud_BFM.amax(dim=(1, 2)) - loud_BFM.amin(dim=(1, 2)) == pytest.approx([80, 80], abs=1e-4)
    torch.testing.assert_close(loud_BFM[0] - loud_BFM[1], torch.full((101, 80), 36.1236), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_the_batch(kind):
    frontend = build_frontend(FrontEndConfig(kind=kind))
    wav_BT = torch.from_numpy(np.stack([np.resize(wav_T, 8000) for wav_T in [*WAVEFORMS.values(), TONE]]))
    alone = torch.cat([frontend(wav_T[None]) for wav_T in wav_BT])
    torch.testing.assert_close(frontend(wav_BT), alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "waveform"])
def test_a_graph_of_the_front_end_computes_the_same_at_lengths_never_traced(kind):
    """A graph has a product of matrices for the Fourier transform."""
    onnxruntime = pytest.importorskip("onnxruntime")
    frontend = build_frontend(FrontEndConfig(kind=kind, mean="none"))
    module = nn.Sequential(frontend, nn.Flatten())
    graph = write_graph(module, (torch.randn(2, 4321), torch.randn(3, 5432)), "wav", "feats")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for num_utterances, num_samples in ((1, 400), (3, 12_345), (1, 70_001)):
        wav_BT = np.resize(WAVEFORMS["fading"], (num_utterances, num_samples))
        (found_BN,) = session.run(None, {"wav": wav_BT})
        np.testing.assert_allclose(found_BN, module(torch.from_numpy(wav_BT)).numpy(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_same_in_any_thread_and_mode(kind):
    frontend, wav_BT = build_frontend(FrontEndConfig(kind=kind)), 0.1 * torch.randn(2, 60_000)

    def in_inference_mode():
        with torch.inference_mode():
            return frontend(wav_BT).numpy()

    with ThreadPoolExecutor(3) as pool:
        found = [job.result() for job in [pool.submit(in_inference_mode) for _ in range(12)]]
    for feats_BFM in found:
        np.testing.assert_array_equal(feats_BFM, frontend(wav_BT).numpy())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "waveform"])
def test_a_mean_over_time_is_gone(kind):
    feats_FM = features(WAVEFORMS["chirps"], kind=kind)
    np.testing.assert_allclose(feats_FM.mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_has_finite_features(kind):
    feats_FM = features(np.zeros(3000, dtype=np.float32), kind=kind)
    np.testing.assert_allclose(feats_FM, 0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frontend_keeps_nothing_in_a_state_dict(kind):
    assert build_frontend(FrontEndConfig(kind=kind)).state_dict() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_samples_are_an_error_that_says_how_many_are_needed(kind):
    config = FrontEndConfig(kind=kind)
    assert features(np.ones(config.min_samples, dtype=np.float32), kind=kind).shape[0] > 0
    with pytest.raises(AudioError, match=str(config.min_samples)):
        features(np.ones(config.min_samples - 1, dtype=np.float32), kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_float32_under_autocast(kind):
    frontend = build_frontend(FrontEndConfig(kind=kind))
    wav_BT = torch.from_numpy(WAVEFORMS["chirps"])[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feats_BFM = frontend(wav_BT)
    assert feats_BFM.dtype == torch.float32
    assert torch.equal(feats_BFM, frontend(wav_BT))


@pytest.mark.parametrize("wav_T", [WAVEFORMS["noise"], TONE], ids=["noise", "tone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_reaches_the_waveform(kind, wav_T):
    wav_BT = torch.from_numpy(wav_T)[None].requires_grad_()
    build_frontend(FrontEndConfig(kind=kind))(wav_BT).square().sum().backward()
    assert wav_BT.grad is not None and wav_BT.grad.isfinite().all() and wav_BT.grad.abs().max() > 0


def test_dither_is_a_function_of_the_waveform_alone():
    dithered_FM = features(WAVEFORMS["chirps"], dither=1.0)
    torch.manual_seed(7)
    np.testing.assert_array_equal(features(WAVEFORMS["chirps"], dither=1.0), dithered_FM)
    assert np.abs(dithered_FM - features(WAVEFORMS["chirps"])).max() > 1e-3


def test_dither_lifts_silence_from_the_floor():
    feats_FM = features(np.zeros(16000, dtype=np.float32), dither=1.0, mean="none")
    assert feats_FM.min() > -12  # the floor is -15.9


def waveform(**values):
    return build_frontend(FrontEndConfig(kind="waveform", num_mels=160, **values))


def off_centre(num_samples=1000):
    return 0.3 + 0.1 * torch.randn(3, num_samples, generator=torch.Generator().manual_seed(1))


def test_the_frames_put_together_are_the_waveform():
    wav_BT = off_centre()
    feats_BFM = waveform(mean="none")(wav_BT)
    assert feats_BFM.shape == (3, 6, 160)
    assert torch.equal(feats_BFM.flatten(1), wav_BT[:, :960])


def test_the_waveform_is_brought_to_zero_mean_and_unit_variance():
    wav_BT = waveform()(off_centre()).flatten(1)
    torch.testing.assert_close(wav_BT.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(wav_BT.var(dim=1, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_silence_stays_silent():
    assert torch.equal(waveform()(torch.zeros(1, 320)), torch.zeros(1, 2, 160))


def test_a_chunk_of_300_frames_is_three_seconds():
    config = FrontEndConfig(kind="waveform", num_mels=160)
    assert config.num_samples_for(300) == 48_000
    assert [waveform()(torch.zeros(1, n)).shape[1] for n in (160, 319, 320)] == [1, 1, 2]


def test_less_than_a_frame_is_refused():
    with pytest.raises(AudioError, match="159 samples are too few for one frame of features: 160"):
        waveform()(torch.zeros(1, 159))


@pytest.mark.slow
def test_the_eer_of_the_default_model_is_that_of_kaldis_own_features(campplus, corpora):
    """All pairs of speakers 101 to 125. With features rounded as kaldi-native-fbank does: EER 0.5667 %."""
    embedder = open_embedder(campplus)
    embedder.card = Card()  # without its conditioning
    listed = (line.split() for line in (corpora / "speechocean762/train/spk2utt").read_text().splitlines())
    speakers = sorted((speaker, sorted(utts)) for speaker, *utts in listed)[100:]
    where = dict(line.split() for line in (corpora / "speechocean762/train/wav.scp").read_text().splitlines())
    paths = [str(corpora / "speechocean762" / where[utt]) for _, utts in speakers for utt in utts]
    emb_NE = embed_files(embedder, paths, paths)
    emb_NE /= np.linalg.norm(emb_NE, axis=1, keepdims=True)
    speaker_N = np.repeat(np.arange(len(speakers)), [len(utts) for _, utts in speakers])
    one_P, other_P = np.triu_indices(len(paths), 1)
    assert len(one_P) == 124_750
    scores_P = (emb_NE @ emb_NE.T)[one_P, other_P]
    found = detection_error(scores_P, speaker_N[one_P] == speaker_N[other_P])
    assert found.eer == pytest.approx(0.0056671, abs=1e-5)
    assert found.min_dcf == pytest.approx(0.10498, abs=1e-4)
