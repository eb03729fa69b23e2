"""Lists, scores and code that the organisers and the homework published, by name, address and SHA-256.

python tests/published/files.py FOLDER    # downloads what is not there yet
FARVOX_PUBLISHED=FOLDER make test         # the tests of this folder then run on them
"""

from __future__ import annotations

import hashlib
import sys
import urllib.request
from pathlib import Path

RAW = "https://raw.githubusercontent.com"
CHALLENGE = f"{RAW}/FFSVC/ffsvc.github.io/c4fbd45a08d30932b499bec6dbcbb4e076082f8b/assets/ffsvc2022"
BASELINE = f"{RAW}/FFSVC/FFSVC2022_Baseline_System/73758846de91bc98adda7cc8da13ed5aa7fdec06"
HOMEWORK = f"{RAW}/DURUII/Course-Voiceprint-Repo-1.0/26159b98a30b3930406c33461c0cd5c23f778fad"
HOMEWORK_RUN = f"{HOMEWORK}/exp/Vox2dev_80FBANK_ECAPATDNN_AAMsoftmax_256_dist/ftmix"

FILES = {
    "dev_meta_list": (
        f"{CHALLENGE}/dev_meta_list",
        "82404bf3644e159888f87b3673c076aeccd79624ce9a02aea8bceb2ac1d8fd06",
    ),
    "trials_dev": (
        f"{CHALLENGE}/trials_dev",
        "7664347701122c9b402f6553fcffbf5c75c96c223d309a89e62c05a3129d423d",
    ),
    "trials_dev_keys": (
        f"{CHALLENGE}/trials_dev_keys",
        "9b80af0d670178346842673f90f267d31329d65facca1e20357646a99656ab49",
    ),
    "example_score.zip": (
        f"{CHALLENGE}/example_score.zip",
        "fa3c537cde7a7a229b0db335a988bef18f5b737fe24896a659bc6d030d9a5be6",
    ),
    "vox1_o_trials": (
        f"{BASELINE}/data/Vox1-O/trials",
        "3c46150e621b9d5e469408b0b8891e5e5004c644eac4dfb7c22e76eb56674c3b",
    ),
    "vox1_o_wav.scp": (
        f"{BASELINE}/data/Vox1-O/wav.scp",
        "3af3838c91bc59ad5d551d8bd3f3f8b2e1658dcd81294097a6a0a9b265984dc5",
    ),
    "noise_wav_list": (
        f"{BASELINE}/data/MUSAN/noise_wav_list",
        "d45831a31d95b5a533fd1205256d21b0059b48ed1d7b4b087db6df91579b0586",
    ),
    "music_wav_list": (
        f"{BASELINE}/data/MUSAN/music_wav_list",
        "84912e795ae42c184ed323db7fcf45ab283c98657b5a3ad0f1b76f802d9533cf",
    ),
    "rir_list": (
        f"{BASELINE}/data/RIR_Noise/rir_list",
        "eecf50f1876a00788635ea0333f756b8b00c5e379f54918382eb916264e2c6db",
    ),
    "baseline/resnet.py": (
        f"{BASELINE}/model/resnet.py",
        "51e776943abd7536608e5e97a7241dd327e8cd4833bec8779ccb4a0e3c4d95d9",
    ),
    "baseline/tdnn.py": (
        f"{BASELINE}/model/tdnn.py",
        "a127cd6740a523e63c9d4d095a2553cf9d94249ff949167000df491fd1b6265d",
    ),
    "baseline/wavlm.py": (
        f"{BASELINE}/model/wavlm.py",
        "2b52c5c705bca94599a84b5643b8b72e7af6549a1bed27b0cb7591b2ee0c1737",
    ),
    "baseline/wavlm_modules.py": (
        f"{BASELINE}/model/wavlm_modules.py",
        "7983839c7374a01aeec1c663f58c6ba7585aa17980f8464121e7f8fa35ff9a20",
    ),
    "baseline/classifier.py": (
        f"{BASELINE}/model/classifier.py",
        "4d2d1509b55ee26f5e939c4c4dfde3bd7f397a707c03f4cc9760b0d7dd10225f",
    ),
    "baseline/utils.py": (
        f"{BASELINE}/tools/utils.py",
        "ee722d7e2bc296e0316dcfb57704440f64ae788d92c4744682a5dd2e99ea6ada",
    ),
    "himia_trial_mic": (
        f"{HOMEWORK}/data/himia_eval/trial_mic",
        "9dd880acb91481ebbc3904bb7bd82468083269d26e35618006ff70d90e91a71f",
    ),
    "himia_blind_trials": (
        f"{HOMEWORK}/data/himia_test/trials",
        "0de82cf9e1f2e9a8c0622951f00c7aa130740919548ac04a28262e2952303b07",
    ),
    "himia_blind_wav.scp": (
        f"{HOMEWORK}/data/himia_test/wav.scp",
        "51080eb4dcd66acd9ae3e790d50a869530147fe225c9e268b9434a596b721f10",
    ),
    "himia_blind_scores_58.txt": (
        f"{HOMEWORK_RUN}/scores_58.txt",
        "1f477d1a330140de1d65ba3eabb3916efb8cc0f02f3fbd38c02674f33fa3e165",
    ),
}


def check(path: Path, sha256: str) -> None:
    """Refuse a file that is not the published one."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise SystemExit(f"{path}: is not the file that was published; delete it and download it again")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (url, sha256) in FILES.items():
        path = folder / name
        if not path.exists():
            print(url)
            path.parent.mkdir(exist_ok=True)
            with urllib.request.urlopen(url, timeout=60) as answer:
                path.write_bytes(answer.read())
        check(path, sha256)


if __name__ == "__main__":
    main()
