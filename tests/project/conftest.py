"""The source tree as the rules of the project see it, and a user's folder with small corpora in it."""

import ast
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from farvox.synthetic.voice import draw_sentence, draw_voice, synthesise

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/farvox"


@dataclass(frozen=True)
class Source:
    """One module: its dotted name without the leading ``farvox.``, its text, its syntax tree."""

    name: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package or top-level module it belongs to: ``audio.files`` is of ``audio``."""
        return self.name.split(".")[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of everything imported anywhere in it, inside functions too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: relative imports hide the layer"
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def read_sources() -> list[Source]:
    sources = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        sources.append(Source(name, text, ast.parse(text)))
    return sources


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """Every module of the package."""
    return read_sources()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with small corpora of the publishers' shapes in ``corpora/``; never written to."""
    folder = tmp_path_factory.mktemp("home")
    for build in (
        voxceleb1,
        voxceleb2,
        himia,
        musan,
        noise_esc10,
        rirs_gtu,
        rirs_noises,
        speechocean762,
        an4,
        ffsvc,
        homework,
        own_recordings,
        own_speakers,
    ):
        build(folder / "corpora")
    baseline_checkpoints(folder / "downloads")
    small_campplus(folder / "downloads/small-campplus")
    return folder


def voice(path: Path, seconds: float = 0.7) -> None:
    """A buzz whose pitch belongs to the folder it is in, with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wav_T = buzz(path, seconds)
    if path.suffix == ".m4a":
        write_m4a(path, wav_T)
    else:
        soundfile.write(
            path, wav_T, 16000, subtype="PCM_16", format="FLAC" if path.suffix == ".flac" else "WAV"
        )


def buzz(path: Path, seconds: float) -> np.ndarray:
    pitch = 80 + zlib.crc32(path.parent.name.encode()) % 160
    rng = np.random.default_rng(zlib.crc32(str(path.name).encode()))
    time_T = np.arange(int(16000 * seconds)) / 16000
    tones = sum(np.sin(2 * np.pi * pitch * k * time_T + rng.uniform(0, 6)) / k for k in range(1, 9))
    return (0.1 * tones + 0.02 * rng.standard_normal(len(time_T))).astype(np.float32)


def write_m4a(path: Path, wav_T: np.ndarray) -> None:
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wav_T[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def voxceleb1(root: Path) -> None:
    files = {
        f"{speaker}/video{speaker[-1]}/{take:05}.wav": f"vox1_{part}_wav/wav"
        for part, speakers in (("dev", ("id10001", "id10002")), ("test", ("id10270", "id10280", "id10300")))
        for speaker in speakers
        for take in (1, 2, 3)
    }
    for name, folder in files.items():
        voice(root / "VoxCeleb1" / folder / name)
    for lists, names in (
        (("veri_test.txt", "veri_test2.txt"), [name for name in files if name > "id1027"]),
        (
            ("list_test_all.txt", "list_test_all2.txt", "list_test_hard.txt", "list_test_hard2.txt"),
            list(files),
        ),
    ):
        lines = [f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in itertools.combinations(names, 2)]
        for each in lists:
            (root / "VoxCeleb1" / each).write_text("".join(lines))


def voxceleb2(root: Path) -> None:
    for number in range(4):
        for take in (1, 2, 3):
            voice(root / f"VoxCeleb2/dev/aac/id0001{number}/video/{take:05}.m4a")


def himia(root: Path) -> None:
    for part, speakers in (("train", range(1, 4)), ("dev", range(255, 257)), ("test_v2", range(297, 300))):
        for speaker in (f"SV{number:04}" for number in speakers):
            folder = root / "HIMIA" / part / "SPEECHDATA/wav" / speaker
            for take in ("N0001", "S0002"):
                places = [
                    f"7_01_{take}",
                    *(f"{point}_{mic:02}_{take}" for point in (2, 5) for mic in range(3)),
                ]
                for place in places:
                    voice(folder / f"{speaker}_{place}.wav")
    sides = [f"SV{number:04}_{{}}_N0001.wav" for number in range(297, 300)]
    for name, place in (("trials_mic", "7_01"), ("trials_1m", "2_{}")):
        lines = [
            f"{enrol.replace('{}', place)} {test.replace('{}_N0001', '5_{}_S0002')} "
            f"{'target' if enrol == test else 'nontarget'}\n"
            for enrol, test in itertools.product(sides, sides)
        ]
        (root / "HIMIA/test_v2" / name).write_text("".join(lines))


def musan(root: Path) -> None:
    for part, source in (("noise", "free-sound"), ("music", "fma"), ("speech", "librivox")):
        for number in range(4):
            voice(root / f"musan/{part}/{source}/{part}-{source}-{number:04}.wav", 1.0)


def noise_esc10(root: Path) -> None:
    for kind, take in itertools.product(("rain", "chainsaw"), range(1, 8)):
        voice(root / f"noise_esc10/{kind}/{take}-{kind}.flac", 1.0)


def rirs_gtu(root: Path) -> None:
    write_rir(root / "rirs_gtu/room.wav")


def rirs_noises(root: Path) -> None:
    for room in ("smallroom", "mediumroom", "largeroom"):
        write_rir(root / f"RIRS_NOISES/simulated_rirs/{room}/Room001/Room001-00001.wav")
    write_rir(root / "RIRS_NOISES/real_rirs_isotropic_noises/hall.wav")


def write_rir(path: Path) -> None:
    path.parent.mkdir(parents=True)
    tail_T = np.exp(-np.arange(1600) / 200) * np.random.default_rng(0).standard_normal(1600)
    soundfile.write(path, 0.5 * tail_T / abs(tail_T).max(), 16000)


def speechocean762(root: Path) -> None:
    root = root / "speechocean762"
    (root / "train").mkdir(parents=True)
    takes = {speaker: 2 if speaker < 76 else 20 for speaker in range(1, 126)}
    rows = [
        (f"{speaker:05}{take:04}", f"{speaker:04}") for speaker in takes for take in range(takes[speaker])
    ]
    for utt_id, speaker in rows:
        voice(root / f"WAVE/SPEAKER{speaker}/{utt_id}.WAV", 0.5)
    wavs = [f"{utt_id}\tWAVE/SPEAKER{speaker}/{utt_id}.WAV\n" for utt_id, speaker in rows]
    (root / "train/wav.scp").write_text("".join(wavs))
    (root / "train/utt2spk").write_text("".join(f"{utt_id}\t{speaker}\n" for utt_id, speaker in rows))


def an4(root: Path) -> None:
    for part, speakers in (("an4_clstk", ("fash", "mkem")), ("an4test_clstk", ("fcaw", "mmxg"))):
        for speaker in speakers:
            for take in (1, 2):
                voice(root / f"an4/wav/{part}/{speaker}/an{take}-{speaker}-b.wav")


FFSVC_CELLS = ("I0.25M_1", "PCM1M_recorded2", "PCML3M_recorded6", "PAD5M_1")


def ffsvc(root: Path) -> None:
    """FFSVC2020's supplement and development part; FFSVC2022's files with their names and trials."""
    for speaker in ("0344", "0345", "0346"):
        for take in range(1, 4):
            voice(root / f"FFSVC2020_supplement/{speaker}/T{speaker}_344I1M_1_{take:04}_normal.wav")
    channels = [f"{array}_recorded{channel}" for array in ("PCM3M", "PCML3M") for channel in (2, 6, 10, 14)]
    for speaker in ("0549", "0550", "0551"):
        for cell in ("I0.25M_1", *channels, "PCMR3M_recorded6"):
            voice(root / f"FFSVC2020/wav/dev/T{speaker}/T{speaker}_{speaker[1:]}{cell}_0031_normal.wav")
    lines = [
        f"{one}I0.25M_1_0031_normal {other}PCM3M_recorded{{}}_0031_normal {'non' * (one != other)}target\n"
        for one, other in itertools.product(("T0549_549", "T0550_550", "T0551_551"), repeat=2)
    ]
    (root / "FFSVC2020/trials_dev").write_text("".join(lines))
    ffsvc2022(root / "FFSVC2022")


def ffsvc2022(root: Path) -> None:
    """Enrolment is always the telephone at 0.25 m, the first of the cells; a speaker has a file in each."""
    meta = ["Original_Name FFSVC2022_Name"]
    for number, (speaker, cell) in enumerate(itertools.product(("0549", "0550", "0551"), FFSVC_CELLS)):
        voice(root / f"dev/{speaker}/ffsvc22_dev_{number:06}.wav")
        voice(root / f"eval/{speaker}/ffsvc22_eval_{number:06}.wav")
        meta.append(f"F{speaker}_{speaker[1:]}{cell}_0001_normal ffsvc22_dev_{number:06}")
    (root / "dev_meta_list").write_text("\n".join(meta) + "\n")
    pairs = [(a, b) for a in range(0, 12, 4) for b in range(12) if b % 4]
    keys = [f"{int(a // 4 == b // 4)} ffsvc22_dev_{a:06}.wav ffsvc22_dev_{b:06}.wav\n" for a, b in pairs]
    blind = [f"ffsvc22_eval_{a:06}.wav ffsvc22_eval_{b:06}.wav\n" for a, b in pairs]
    (root / "trials_dev_keys").write_text("".join(keys))
    (root / "trials_eval").write_text("".join(blind))


def homework(root: Path) -> None:
    """The blind test of the HI-MIA homework: enrolments are files, tests eight channels; no labels.

    One id is a file and eight channels, as seven are in the homework's list.
    """
    enrolled, tested = ("id06729", "id06730", "id01520"), ("id01519", "id01520", "id01521")
    for name in (*enrolled, *(f"{test}_{channel}" for test in tested for channel in range(8))):
        voice(root / f"homework/wav/{name}.wav")
    pairs = [f"{enrol} {test}\n" for test, enrol in itertools.product(tested, enrolled)]
    (root / "homework/trials").write_text("".join(pairs))


def own_recordings(root: Path) -> None:
    """Sentences of made-up voices, which a speech detector takes for speech."""
    for number, speaker in enumerate(("ann", "bob"), start=1):
        who = draw_voice(np.random.default_rng(number))
        for take in (1, 2, 3):
            rng = np.random.default_rng([number, take])
            wav_T = synthesise(who, draw_sentence(rng, 2.0), rng)
            path = root / f"recordings/{speaker}/{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.3 * wav_T / np.abs(wav_T).max(), 16000, subtype="PCM_16")


def own_speakers(root: Path) -> None:
    """As many speakers as a threshold that accepts 1 % of the strangers needs."""
    for speaker, take in itertools.product(range(12), range(4)):
        voice(root / f"mine/speaker{speaker:02}/{take}.wav", 0.5)


SMALL_CAMPPLUS = {"front_channels": 4, "channels": 16, "blocks": (1, 1, 1), "growth": 8, "bottleneck": 8}


def small_campplus(folder: Path) -> None:
    """A CAM++ of random weights, to be fine-tuned in the place of the pretrained one."""
    import torch

    from farvox.features.frontend import FrontEndConfig
    from farvox.models.registry import build_model
    from farvox.zoo import Card, save_model

    torch.manual_seed(0)
    model = build_model("campplus", **SMALL_CAMPPLUS, embedding_dim=32)
    save_model(folder, model, FrontEndConfig(), "campplus", {**SMALL_CAMPPLUS, "embedding_dim": 32})
    Card(name="small-campplus").save(folder)


def baseline_checkpoints(folder: Path) -> None:
    """Small networks as the FFSVC2022 baseline saves them."""
    import torch

    from farvox.models.registry import build_model

    sizes = {
        "resnet34": {"channels": 16, "embedding_dim": 32},
        "ecapa": {"channels": 128, "embedding_dim": 32, "bottleneck": 16},
    }
    for arch, kwargs in sizes.items():
        torch.manual_seed(0)
        weights = build_model(f"ffsvc-{arch}", **kwargs).state_dict()
        (folder / arch).mkdir(parents=True)
        checkpoint = {"model": weights, "classifier": {"weight": torch.randn(4, 32)}}
        torch.save(checkpoint, folder / arch / "model_37.pkl")
