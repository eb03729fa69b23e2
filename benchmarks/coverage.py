"""How often an interval holds the truth: 1,000 simulated corpora of each kind and size.

python benchmarks/coverage.py                 # all, for half an hour of one core; to results/coverage.json
python benchmarks/coverage.py --corpora 100   # fewer
python benchmarks/coverage.py --table         # the table of what was found, as docs/evaluation.md has it
python benchmarks/coverage.py --embeddings DIR...  # of recordings, of folders that `farvox extract` wrote

Each corpus has its own speakers, six utterances of each and all pairs of utterances as trials. Found is the
share of corpora whose 95 % interval holds the truth, which is that of 40,000 speakers, and the mean width. A
part of the corpora is also scored by a second system of the same true error rates, whose errors go with those
of the first: found is the share in which the two seem to differ (p < 0.05), which they do not.

Of recordings, the population is all speakers of the embeddings, with six recordings of each drawn once, no
two of one take; a corpus is some of these speakers. It holds a share of the population, and so is nearer to
its truth than one from outside, by the square root of 1 - share (Cochran, Sampling Techniques, 1977): the
level of the intervals is lowered so far that 95 % is again what they should hold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from farvox.datadir.embeddings import EmbeddingSet
from farvox.metrics.bootstrap import (
    LEVEL,
    Sample,
    difference,
    equal_error,
    least_cost,
    rates_at,
    speaker_bootstrap,
)
from farvox.metrics.detection import Detection, detection_error

RESULTS = Path(__file__).parent / "results/coverage.json"
SIZES = (25, 40, 125)
TAKES = 6
REPLICATES = 400
COMPARED = 4  # one corpus in so many is scored by both systems
Corpus = tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]
"""The scores of the systems, the labels, and the speakers of both sides."""


def sides(num_speakers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Utterances and speakers of both sides of all pairs."""
    enrol, test = np.triu_indices(num_speakers * TAKES, 1)
    return enrol, test, enrol // TAKES, test // TAKES


def of_effects(
    rng: np.random.Generator, num_speakers: int, spread: float, noise: float, skewed: bool = False
) -> Corpus:
    """Target scores fall where a speaker is hard to recognise, others rise where both sound like others.

    The effects are normal; or exponential, so that a few speakers make most of the errors.
    """
    _, _, first, second = sides(num_speakers)
    target, systems = first == second, []
    shared = rng.standard_normal((2, num_speakers))
    for _ in range(2):
        own = 0.8 * shared + 0.6 * rng.standard_normal((2, num_speakers))
        hard, like_others = spread * (-np.log(ndtr(-own)) - 1 if skewed else own)
        means = np.where(target, 1 - hard[first], (like_others[first] + like_others[second]) / np.sqrt(2))
        systems.append(means + noise * rng.standard_normal(len(first)))
    return systems, target, first, second


def of_embeddings(rng: np.random.Generator, num_speakers: int, dimension: int, noise: float) -> Corpus:
    """Cosines: a voice, some nearer to the common one, and utterances that vary more or less by speaker."""
    enrol, test, first, second = sides(num_speakers)
    voice_SE = rng.standard_normal((num_speakers, dimension))
    voice_SE += 0.35 * rng.standard_normal((num_speakers, 1))
    varies_S = noise * np.exp(0.3 * rng.standard_normal((num_speakers, 1)))
    systems = []
    for _ in range(2):
        size = (num_speakers * TAKES, dimension)
        utterance_UE = np.repeat(varies_S, TAKES, axis=0) * rng.standard_normal(size)
        utterance_UE *= np.exp(0.2 * rng.standard_normal((len(utterance_UE), 1)))
        utterance_UE += np.repeat(voice_SE, TAKES, axis=0)
        utterance_UE /= np.linalg.norm(utterance_UE, axis=1, keepdims=True)
        systems.append((utterance_UE @ utterance_UE.T)[enrol, test])
    return systems, first == second, first, second


class Recordings:
    """Embeddings of a population of speakers, six recordings of each.

    Attributes:
        emb_SKE: of length 1; S speakers, K recordings.
    """

    def __init__(self, folders: list[Path]) -> None:
        takes: dict[str, dict[str, list[np.ndarray]]] = {}
        for each in map(EmbeddingSet.load, folders):
            for utt_id, speaker, emb_E in zip(each.utt_ids, each.speaker_ids, each.embeddings, strict=True):
                takes.setdefault(speaker, {}).setdefault(utt_id.split("_")[0], []).append(emb_E)  # its copies
        rng, chosen = np.random.default_rng(0), []
        for of_speaker in takes.values():
            if len(of_speaker) >= TAKES:
                drawn = rng.choice(sorted(of_speaker), TAKES, replace=False)
                chosen.append([of_speaker[take][rng.integers(len(of_speaker[take]))] for take in drawn])
        emb_SKE = np.array(chosen, dtype=np.float64)
        self.emb_SKE = emb_SKE / np.linalg.norm(emb_SKE, axis=2, keepdims=True)

    def corpus(self, rng: np.random.Generator, num_speakers: int) -> Corpus:
        """All pairs of recordings of some of the speakers."""
        enrol, test, first, second = sides(num_speakers)
        drawn_SKE = self.emb_SKE[rng.choice(len(self.emb_SKE), num_speakers, replace=False)]
        utterance_UE = drawn_SKE.reshape(num_speakers * TAKES, -1)
        return [(utterance_UE @ utterance_UE.T)[enrol, test]], first == second, first, second

    def level(self, num_speakers: int) -> float:
        """The level at which intervals of corpora of this size should hold the truth in 95 %."""
        far_out = stdtrit(num_speakers - 1, (1 + LEVEL) / 2)
        return float(2 * stdtr(num_speakers - 1, far_out * (1 - num_speakers / len(self.emb_SKE)) ** 0.5) - 1)


KINDS: dict[str, Callable[[np.random.Generator, int], Corpus]] = {
    "EER 8 %": partial(of_effects, spread=0.27, noise=0.23),
    "EER 1 %": partial(of_effects, spread=0.16, noise=0.14),
    "embeddings": partial(of_embeddings, dimension=48, noise=0.9),
    "few bad speakers": partial(of_effects, spread=0.13, noise=0.17, skewed=True),
}


def truth(kind: str) -> Detection:
    """The figures of a population: 4,000 corpora of ten speakers, pooled."""
    rng = np.random.default_rng(0)
    corpora = [KINDS[kind](rng, 10) for _ in range(4000)]
    scores = np.concatenate([systems[0] for systems, *_ in corpora])
    return detection_error(scores, np.concatenate([target for _, target, *_ in corpora]))


def percentile(sample: Sample, level: float) -> tuple[float, float]:
    """The percentile interval, as farvox had it before."""
    low, high = np.quantile(sample.value_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bca(sample: Sample, level: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (DiCiccio and Efron, 1996)."""
    below = np.mean(sample.value_R < sample.value) + 0.5 * np.mean(sample.value_R == sample.value)
    bias = ndtri(np.clip(below, 1e-3, 1 - 1e-3))
    change_J = sample.value_J.mean() - sample.value_J
    squares = np.sum(change_J**2)
    acceleration = np.sum(change_J**3) / (6 * squares**1.5) if squares > 0 else 0.0
    reach = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(sample.value_R, ndtr(bias + reach / (1 - acceleration * reach)))
    return float(low), float(high)


def cover(
    draw: Callable[[np.random.Generator, int], Corpus],
    true: Detection,
    num_speakers: int,
    corpora: int,
    number_of_kind: int,
    level: float = LEVEL,
) -> dict[str, dict[str, float]]:
    """Coverage and mean width of each interval, and how often equal systems are found to differ."""
    at_threshold = partial(rates_at, threshold=true.threshold)
    wanted = {
        "eer": true.eer,
        "min_dcf": true.min_dcf,
        "threshold": true.threshold,
        "far": true.eer,
        "frr": true.eer,
    }
    found: dict[str, list[tuple[float, float, float]]] = {}
    differ: dict[str, list[bool]] = {"eer": [], "min_dcf": []}
    for number in range(corpora):
        rng = np.random.default_rng([number, num_speakers, number_of_kind])
        systems, target, *speakers = draw(rng, num_speakers)
        one, *other = speaker_bootstrap(
            systems if number % COMPARED == 0 else systems[:1],
            target,
            *speakers,
            figures=(equal_error, least_cost, at_threshold),
            replicates=REPLICATES,
            seed=number,
        ).systems
        intervals = {name: one[name].interval(level) for name in wanted}
        more = {"eer, percentile": percentile(one["eer"], level), "eer, BCa": bca(one["eer"], level)}
        for name, (low, high) in (intervals | more).items():
            value = wanted[name.split(",")[0]]
            found.setdefault(name, []).append((value < low, value > high, high - low))
        for name, each in differ.items():
            each += [difference(one[name], second[name]).p < 0.05 for second in other]
    table: dict[str, dict[str, float]] = {"truth": wanted}
    for name, rows in found.items():
        below, above, width = np.mean(rows, axis=0)
        table[name] = {
            "coverage": round(float(1 - below - above), 4),
            "truth_below": round(float(below), 4),
            "truth_above": round(float(above), 4),
            "mean_width": round(float(width), 5),
        }
    for name, each in differ.items():
        if each:
            table[f"{name}, difference"] = {"found": round(float(np.mean(each)), 4)}
    return table


def lines(results: list[dict]) -> list[str]:
    """The table of the docs."""
    names = ("eer", "eer, percentile", "eer, BCa", "min_dcf", "threshold", "far", "frr")
    heads = ("EER", "percentile", "BCa", "minDCF", "threshold", "FAR", "FRR at it")
    rows = [f"| corpora | speakers | {' | '.join(heads)} | p < 0.05 |", "|---" * (len(heads) + 3) + "|"]
    for each in results:
        found = each["found"]
        cells = [f"{100 * found[name]['coverage']:.1f} %" for name in names]
        cells[0] += f" ({100 * found['eer']['mean_width']:.2g})"
        differ = f"{100 * found['eer, difference']['found']:.1f} %" if "eer, difference" in found else "-"
        rows.append(f"| {each['kind']} | {each['speakers']} | {' | '.join(cells)} | {differ} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpora", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table of what was found")
    parser.add_argument("--embeddings", type=Path, nargs="+", help="of recordings, instead of simulated")
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.table or options.embeddings else []
    results = [each for each in known if options.table or not each["kind"].startswith("recordings")]
    if options.embeddings:
        people = Recordings(options.embeddings)
        num_people = len(people.emb_SKE)
        scores, target, *_ = people.corpus(np.random.default_rng(0), num_people)
        true = detection_error(scores[0], target)
        kinds = {f"recordings, of {num_people}": (people.corpus, true, people.level)}
        sizes = [size for size in SIZES if size <= num_people / 4]
    elif not options.table:
        kinds = {kind: (draw, truth(kind), lambda num_speakers: LEVEL) for kind, draw in KINDS.items()}
        sizes = list(SIZES)
    else:
        kinds, sizes = {}, []
    for num_speakers in sizes:
        for number, (kind, (draw, true, level)) in enumerate(kinds.items()):
            found = cover(draw, true, num_speakers, options.corpora, number, level(num_speakers))
            each = {"kind": kind, "speakers": num_speakers, "corpora": options.corpora, "found": found}
            results.append({**each, "replicates": REPLICATES})
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(lines([each])[-1], flush=True)
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
