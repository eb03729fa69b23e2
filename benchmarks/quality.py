"""Calibration that knows how good the recordings are, against the plain one: by the command line, end to end.

python benchmarks/quality.py FOLDER               # half an hour of one core; FOLDER keeps what was made
python benchmarks/quality.py FOLDER --per-speaker 4

Utterances of speechocean762, each also as a far copy (`farvox simulate`), cut to 1 to 2 s, and at 8 kHz.
Fitted on speakers 1 to 75, reported on 101 to 125, on two lists: near enrolments against all kinds, and all
pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from farvox.audio.files import read_recording, resample, write_audio
from farvox.audio.speech import find_by_energy
from farvox.metrics.roc import llr_figures
from farvox.pipelines.score import Scores

CORPORA = Path(os.environ.get("FARVOX_CORPORA", "corpora"))
KINDS = ("near", "far", "short", "narrow")
MODEL = "campplus-zh-en"


def farvox(*words: object) -> str:
    """Run a verb; what it prints."""
    command = [sys.executable, "-m", "farvox", *map(str, words)]
    print("farvox", *words, file=sys.stderr, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def copies(near: Path, kind: str, out: Path) -> None:
    """A data dir of the utterances of another, cut to 1 to 2 s or at 8 kHz."""
    ids, paths = zip(
        *(line.split(maxsplit=1) for line in (near / "wav.scp").read_text().splitlines()), strict=True
    )
    speaker_of = dict(line.split() for line in (near / "utt2spk").read_text().splitlines())
    named = [f"{utt_id}_{kind}" for utt_id in ids]
    files = [(out / "audio" / f"{name}.flac").absolute() for name in named]
    (out / "audio").mkdir(parents=True)
    for n, path in enumerate(paths):
        wav_CT, rate = read_recording(path)
        if kind == "narrow":
            wav_CT, rate = resample(wav_CT, rate, 8000), 8000
        else:
            rng = np.random.default_rng(n)
            regions, length = find_by_energy(wav_CT, rate).regions, int(rate * rng.uniform(1, 2))
            first, last = regions[0][0], regions[-1][1]
            begin = int(rng.integers(first, max(first + 1, last - length)))
            wav_CT = wav_CT[:, begin : begin + length]
        write_audio(files[n], wav_CT[0], rate)
    (out / "wav.scp").write_text("".join(f"{a} {b}\n" for a, b in zip(named, files, strict=True)))
    (out / "utt2spk").write_text("".join(f"{a} {speaker_of[b]}\n" for a, b in zip(named, ids, strict=True)))


def prepare(folder: Path, per_speaker: int) -> list[Path]:
    """The data dir ``folder/mix`` and the embeddings of its parts, where they are not there yet."""
    if not (folder / "mix").exists():
        farvox("prepare", "speechocean762", CORPORA / "speechocean762", folder / "so762")
        farvox("subset", folder / "so762/train", folder / "near", "--per-speaker", per_speaker)
        farvox("simulate", folder / "near", folder / "far", "--noise", CORPORA / "noise_esc10", "--jobs", 1)
        for kind in KINDS[2:]:
            copies(folder / "near", kind, folder / kind)
        rows = [
            (utt_id, kind, utt_id.split("_")[0] if kind != "near" else "")
            for kind in KINDS
            for utt_id in (line.split()[0] for line in (folder / kind / "wav.scp").read_text().splitlines())
        ]
        made = folder / "mix.part"
        made.mkdir(exist_ok=True)
        for name in ("wav.scp", "utt2spk"):
            lines = "".join((folder / kind / name).read_text() for kind in KINDS).splitlines(keepends=True)
            (made / name).write_text("".join(sorted(lines)))
        cond = "".join("\t".join(row) + "\n" for row in [("utt_id", "kind", "source"), *sorted(rows)])
        (made / "utt2cond").write_text(cond)
        made.rename(folder / "mix")
    for part, speakers in (("fit", "1-75"), ("report", "101-125")):
        if not (folder / part).exists():
            farvox("subset", folder / "mix", folder / part, "--speakers", speakers)
        if not (folder / f"emb-{part}").exists():
            farvox("extract", MODEL, folder / part, folder / f"emb-{part}", "--quality", "--threads", 1)
    return [folder / "emb-fit", folder / "emb-report"]


def compare(folder: Path, name: str, *pairs: str) -> dict[str, Any]:
    """Fit, apply and evaluate on one list of both parts."""
    for part in ("fit", "report"):
        trials, scores = folder / part / f"trials-{name}", folder / f"scores-{part}-{name}"
        farvox("trials", folder / part, trials, *pairs)
        farvox("score", trials, folder / f"emb-{part}", "--out", scores)
    fitted = {}
    for kind, words in (("plain", ()), ("quality-aware", ("--quality",))):
        saved, llrs = folder / f"{kind}-{name}.json", folder / f"llrs-{kind}-{name}"
        where = folder / "fit" / f"trials-{name}", folder / f"scores-fit-{name}"
        fitted[kind] = json.loads(farvox("calibrate", *where, *words, "--save", saved, "--json"))
        farvox("calibrate", trials, scores, "--apply", saved, "--out", llrs)
    found = {"list": name, "fitted": fitted}
    systems = [f"{kind}={folder / f'llrs-{kind}-{name}'}" for kind in fitted]
    common = ("--llr", "--by", "kind", "--data", folder / "report", "--json")
    found["report"] = json.loads(farvox("evaluate", trials, *systems, *common, "--intervals"))
    # the same FAR was asked of both: the plain threshold on its llr is that on the score
    plain = fitted["plain"]
    threshold = {
        "plain": plain["scale"] * plain["threshold"]["threshold"] + plain["offset"],
        "quality-aware": fitted["quality-aware"]["llr_threshold"]["threshold"],
    }
    found["at"] = {
        kind: json.loads(
            farvox(
                "evaluate", trials, folder / f"llrs-{kind}-{name}", *common, "--threshold", threshold[kind]
            )
        )
        for kind in fitted
    }
    found["cllr"] = {}
    for kind in fitted:
        llrs = Scores.read(trials, folder / f"llrs-{kind}-{name}")
        kind_N = llrs.trials.test.str.split("_").list.get(-1).to_numpy()
        kind_N = np.where(np.isin(kind_N, KINDS), kind_N, np.where(kind_N == "00", "far", "near"))
        rows_of = {"all": kind_N != "", **{each: kind_N == each for each in KINDS}}
        target = np.asarray(llrs.trials.target)
        found["cllr"][kind] = {
            each: llr_figures(llrs.values[rows], target[rows]).cllr for each, rows in rows_of.items()
        }
    return found


def lines(found: list[dict[str, Any]]) -> list[str]:
    """The tables of the docs."""
    rows = ["| trials | plain | quality-aware | change | held-out speakers of the fit |", "|---" * 5 + "|"]
    for each in found:
        report, held = each["report"], each["fitted"]["quality-aware"]["held_out"]
        plain, aware = (table["cllr"] for table in report["systems"])
        less = report["differences"][0]["cllr"]
        sign = 1 if report["differences"][0]["system"] == "quality-aware" else -1
        low, high = sorted(sign * x for x in less["interval"])
        other = held["cllr"]["other"]
        rows.append(
            f"| {each['list']} | {plain:.3f} | {aware:.3f} | {100 * (aware / plain - 1):+.0f} %: "
            f"{aware - plain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f} | {other:.3f} -> "
            f"{other + held['cllr']['difference']:.3f} |"
        )
    for each in found:
        rows += ["", each["list"], "", "| test side | Cllr plain, aware | FAR, FRR plain | FAR, FRR aware |"]
        rows.append("|---" * 4 + "|")
        at = {
            system: {"all": table["at"]} | {cell["condition"]["kind"]: cell for cell in table["conditions"]}
            for system, table in each["at"].items()
        }
        for name in ("all", *KINDS):
            plain, aware = (at[kind][name] for kind in ("plain", "quality-aware"))
            rates = [f"{100 * x['far']:.2f} %, {100 * x['frr']:.1f} %" for x in (plain, aware)]
            cllr = ", ".join(f"{each['cllr'][system][name]:.3f}" for system in at)
            rows.append(f"| {name} | {cllr} | {' | '.join(rates)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-speaker", type=int, default=8)
    options = parser.parse_args()
    prepare(options.folder, options.per_speaker)
    found = [
        compare(options.folder, "near-enrolment", "--enrol-where", "kind=near"),
        compare(options.folder, "all-pairs", "--all-pairs"),
    ]
    (options.folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
