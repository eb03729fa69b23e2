"""Freeze excerpts of the publishers' lists with the figures of the originals' own code: published.json.

    python make_published.py PUBLISHED BASELINE_CHECKOUT HOMEWORK_CHECKOUT

PUBLISHED is the folder of tests/published/files.py. Embeddings are those of tests/published/embeddings.py for
the names of an excerpt, in order. EER and minDCF are those of ``get_eer`` of the baseline (tools/utils.py)
and ``get_eer_HIMIA`` of the homework's scoring.py, the blind scores those of ``get_results`` of its test.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy import spatial

sys.path.insert(0, str(Path(__file__).parents[1] / "published"))


def load(path: Path) -> ModuleType:
    """A module of an original."""
    spec = importlib.util.spec_from_file_location(path.parent.name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function_of(path: Path, name: str, names: dict[str, Any]) -> Any:
    """One function of a script whose other lines want a GPU and the data."""
    text = path.read_text()
    start = text.index(f"def {name}(")
    exec(text[start : text.index("if __name__", start)], names)
    return names[name]


def main(published: Path, baseline: Path, homework: Path) -> None:
    """Write published.json."""
    from embeddings import DIM, embeddings_of

    utils = load(baseline / "tools/utils.py")
    names_of_homework = {
        "np": np,
        "spatial": spatial,
        "compute_eer": load(homework / "tools/utils.py").compute_eer,
    }
    get_eer_himia = function_of(homework / "scoring.py", "get_eer_HIMIA", dict(names_of_homework))
    get_results = function_of(homework / "test.py", "get_results", dict(names_of_homework))
    lines = {
        name: [line.split() for line in (published / name).read_text().splitlines()]
        for name in ("vox1_o_trials", "trials_dev_keys", "himia_trial_mic", "himia_blind_trials")
    }
    speaker_of = {f"{name}.wav": original[1:5] for original, name in (
        line.split() for line in (published / "dev_meta_list").read_text().splitlines()[1:]
    )}  # fmt: skip
    frozen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        trials = Path(folder) / "trials"

        def excerpt(rows: list[list[str]]) -> str:
            text = "".join(f"{' '.join(row)}\n" for row in rows)
            trials.write_text(text)
            return text

        for name, speakers in (("vox1_o_trials", None), ("trials_dev_keys", speaker_of)):
            text = excerpt(lines[name][:500])
            names = sorted({each for row in lines[name][:500] for each in row[1:]})
            of = [speakers[each] if speakers else each.split("-")[0] for each in names]
            embeddings = dict(zip(names, embeddings_of(names, of), strict=True))
            eer, _, min_dcf, _ = utils.get_eer(embeddings, trials)
            frozen[name] = {"trials": text, "speakers": of, "eer": eer, "min_dcf": min_dcf}

        rows = lines["himia_trial_mic"][:200]
        text = excerpt(rows)
        names = sorted(
            {row[0] for row in rows} | {row[1].replace("{}", f"{n:02}") for row in rows for n in range(16)}
        )
        embeddings = dict(
            zip(names, embeddings_of(names, [each.split("_")[0] for each in names]), strict=True)
        )
        eer, _, min_dcf, _ = get_eer_himia(embeddings, trials, embd_dim=DIM)
        frozen["himia_trial_mic"] = {"trials": text, "eer": eer, "min_dcf": min_dcf}

        # Seven ids of the blind list are an utterance and channels at once: trials of theirs, and others.
        there = {line.split()[0] for line in (published / "himia_blind_wav.scp").read_text().splitlines()}
        both = {each for each in there if f"{each}_0" in there}
        of_both = [row for row in lines["himia_blind_trials"] if both & set(row)]
        rows = [*of_both[:60], *lines["himia_blind_trials"][:140]]
        text = excerpt(rows)
        names = sorted({row[0] for row in rows} | {f"{row[1]}_{n}" for row in rows for n in range(8)} | both)
        names = [each for each in names if each in there]
        embeddings = dict(
            zip(names, embeddings_of(names, [each.split("_")[0] for each in names]), strict=True)
        )
        scores = [float(line) for line in get_results(embeddings, trials, embd_dim=DIM).split()]
        frozen["himia_blind_trials"] = {
            "trials": text,
            "names": names,
            "both": sorted(both),
            "scores": scores,
        }
    Path(__file__).with_name("published.json").write_text(json.dumps(frozen) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
