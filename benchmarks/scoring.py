"""From trials to figures, each step against the loop that its peer runs.

Cosine and the detection figures against the FFSVC2022 baseline (scipy's cosine for every trial; every
threshold in a Python loop), the normalisation against WeSpeaker's (a full sort of the cohort's scores, a loop
over the trials), the trial list against a loop over its lines. Loops over trials are timed on a share.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from _bench import Bench, at_most, peak_of_products, times
from scipy.optimize import isotonic_regression
from scipy.spatial.distance import cosine

from farvox.metrics.bootstrap import speaker_bootstrap
from farvox.metrics.detection import CostModel, detection_error, min_detection_costs
from farvox.metrics.roc import llr_figures, roc_figures
from farvox.rng import rng_for
from farvox.score.conditions import SharedConditions
from farvox.score.cosine import cosine_scores, scalar_products, side_embeddings
from farvox.score.norm import cohort_embeddings, cohort_scores, matched_cohort_scores, normalise_scores
from farvox.score.scores import write_scores
from farvox.score.trials import ResolvedTrials, read_trials

DIMENSION = 256


def main() -> None:
    bench = Bench(__doc__)
    options = bench.parse()
    scale = 0.02 if options.quick else 1.0
    peak = peak_of_products()
    with tempfile.TemporaryDirectory() as name:
        trials_of_embeddings(bench, Path(name), int(1_000_000 * scale), int(5_000 * scale), peak)
        long_list(bench, Path(name), int(10_000_000 * scale))
    detection(bench, int(10_000_000 * scale))
    resamples(bench, int(1_000_000 * scale), 80)
    memory_of_figures(bench, int(100_000_000 * scale))
    bench.finish()


def trials_of_embeddings(bench: Bench, folder: Path, count: int, utterances: int, peak: float) -> None:
    """Cosine, the way from text to text, and normalised scores."""
    rng = np.random.default_rng(0)
    embeddings_NE = rng.standard_normal((utterances, DIMENSION), dtype=np.float32)
    utt_ids = [f"id{n // 40:05}-video{n % 40:02}-{n:08}" for n in range(utterances)]
    sides = rng.integers(utterances, size=(count, 2))
    path = write_list(folder / "trials", utt_ids, sides)
    trials = read_trials(path)
    resolved = trials.resolve(utt_ids)
    row_of_id = {utt_id: row for row, utt_id in enumerate(utt_ids)}
    looped = min(20_000, count)
    share = looped / count

    def loop() -> list[float]:
        return [1 - cosine(embeddings_NE[a], embeddings_NE[b]) for a, b in sides[:looped]]

    worst = np.abs(cosine_scores(resolved, embeddings_NE)[:looped] - loop()).max()
    assert worst < 1e-6, f"the scores differ by {worst}"
    bench.compare(
        "cosine, 1 M trials of 5,000 embeddings",
        ours=lambda: cosine_scores(resolved, embeddings_NE),
        reference=loop,
        reference_share=share,
        reference_is="FFSVC2022 baseline: scipy's cosine for every trial",
        target=at_most(0.15),
        published=6.071,
        floor=2 * utterances**2 * DIMENSION / 2 / (peak / 2),
        floor_is="6.4 GFLOP in float64 (half the matrix)",
    )

    def text_to_text() -> None:
        found = read_trials(path)
        write_scores(folder / "scores", found, cosine_scores(found.resolve(utt_ids), embeddings_NE))

    def lines_to_lines() -> None:
        with open(path) as lines, open(folder / "looped", "w") as out:
            for line, _ in zip(lines, range(looped), strict=False):
                _, enrol, test = line.split()
                score = 1 - cosine(embeddings_NE[row_of_id[enrol]], embeddings_NE[row_of_id[test]])
                out.write(f"{enrol} {test} {score}\n")

    size = path.stat().st_size + 20 * count
    bench.compare(
        "the same from a text list to a score file",
        ours=text_to_text,
        reference=lines_to_lines,
        reference_share=share,
        reference_is="the same loop, reading and writing lines",
        target=at_most(1.5),
        floor=2 * size / 2e9,
        floor_is="read and write at 2 GB/s",
    )
    normalisation(bench, folder, resolved, embeddings_NE, 4 * utterances, peak)


def normalisation(
    bench: Bench,
    folder: Path,
    resolved: ResolvedTrials,
    embeddings_NE: np.ndarray,
    cohort_size: int,
    peak: float,
) -> None:
    """AS-norm, given the cosine scores."""
    cohort_CE = cohort_embeddings(
        np.random.default_rng(1).standard_normal((cohort_size, DIMENSION), dtype=np.float32)
    )
    top, sides_SE = min(300, cohort_size), side_embeddings(resolved, embeddings_NE)
    raw = scalar_products(resolved, sides_SE)
    looped = min(50_000, len(raw))
    names = [f"utt{n:06}" for n in range(len(sides_SE))]
    number = {name: n for n, name in enumerate(names)}
    lines = [
        f"{names[a]} {names[b]} {score:.5f}\n"
        for a, b, score in zip(
            resolved.enrol_side[:looped], resolved.test_side[:looped], raw[:looped], strict=True
        )
    ]
    unit_SE = sides_SE.astype(np.float32)

    def wespeaker_statistics() -> tuple[np.ndarray, np.ndarray]:
        scores_SC = unit_SE @ cohort_CE.T
        nearest = np.sort(scores_SC, axis=1)[:, ::-1][:, :top]
        return nearest.mean(1), nearest.std(1)

    def wespeaker_loop(mean_S: np.ndarray, std_S: np.ndarray) -> None:
        with open(folder / "normalised", "w") as out:
            for line in lines:
                words = line.strip().split()
                enrol, test, score = number[words[0]], number[words[1]], float(words[2])
                normed = 0.5 * ((score - mean_S[enrol]) / std_S[enrol] + (score - mean_S[test]) / std_S[test])
                out.write(f"{words[0]} {words[1]} {normed:.5f}\n")

    def ours() -> np.ndarray:
        return normalise_scores(resolved, raw, cohort_scores(sides_SE, cohort_CE, top))

    found, expected = cohort_scores(sides_SE, cohort_CE, top), wespeaker_statistics()
    assert np.abs(found.mean_S - expected[0]).max() < 1e-5
    mine, other = [], []
    ours()
    for _ in range(bench.repeats):
        mine.append(bench.seconds(ours))
        other.append(
            bench.seconds(wespeaker_statistics)
            + bench.seconds(lambda: wespeaker_loop(*expected)) * len(raw) / looped
        )
    bench.record(
        "AS-norm, 5,000 x 20,000, top 300, 1 M trials",
        mine,
        other,
        reference_is="WeSpeaker: a full sort, and a loop over the lines",
        target=at_most(0.5),
        published=6.8,
        floor=2 * len(sides_SE) * cohort_size * DIMENSION / peak,
        floor_is="51 GFLOP in float32",
    )

    rng = np.random.default_rng(5)
    number_S, number_C = rng.integers(1, 5, len(sides_SE)), rng.integers(1, 5, cohort_size)
    conditions = SharedConditions([f"bin {n}" for n in range(4)], number_S, number_C)

    def by_condition() -> np.ndarray:
        matched = matched_cohort_scores(resolved, sides_SE, cohort_CE, conditions, [top] * 5)
        return normalise_scores(resolved, raw, matched, number_S)

    bench.compare(
        "AS-norm by four conditions, of as many members each",
        ours=by_condition,
        reference=ours,
        reference_is="AS-norm without conditions",
        target=times(1 / 1.3),
    )


def long_list(bench: Bench, folder: Path, count: int) -> None:
    """Ten million lines to row numbers."""
    rng = np.random.default_rng(2)
    utt_ids = [f"id{n // 40:05}-video{n % 40:02}-{n:08}" for n in range(count // 100)]
    path = folder / "long"
    write_list(path, utt_ids, rng.integers(len(utt_ids), size=(count, 2)))
    looped = min(1_000_000, count)
    share = looped / count

    def loop() -> np.ndarray:
        row_of_id = {utt_id: row for row, utt_id in enumerate(utt_ids)}
        rows = np.empty((3, looped), np.int32)
        with open(path) as lines:
            for n, line in enumerate(lines):
                if n == looped:
                    break
                label, enrol, test = line.split()
                rows[0, n], rows[1, n], rows[2, n] = int(label), row_of_id[enrol], row_of_id[test]
        return rows

    resolved = read_trials(path).resolve(utt_ids)
    expected = loop()
    assert (resolved.side_rows[resolved.enrol_side[:looped]] == expected[1]).all()
    assert (resolved.side_rows[resolved.test_side[:looped]] == expected[2]).all()
    size = path.stat().st_size
    bench.compare(
        "10 M trial lines to row numbers",
        ours=lambda: read_trials(path).resolve(utt_ids),
        reference=loop,
        reference_share=share,
        reference_is="a loop over the lines, one dict",
        target=at_most(2.0),
        published=6.44,
        floor=size / 2e9,
        floor_is=f"{size / 1e6:.0f} MB at 2 GB/s",
    )


def detection(bench: Bench, count: int) -> None:
    """EER and minDCF."""
    rng = np.random.default_rng(3)
    target = (rng.random(count) < 0.1).astype(np.int8)
    scores = rng.standard_normal(count) + 3.3 * target

    def baseline() -> tuple[float, float]:
        """compute_eer of the FFSVC2022 baseline, statement by statement."""
        targets, nontargets = scores[target == 1], scores[target == 0]
        values = np.concatenate((targets, nontargets))
        labels = np.concatenate((np.ones(targets.size), np.zeros(nontargets.size)))
        indices = np.argsort(values, kind="mergesort")
        labels = labels[indices]
        target_sums = np.cumsum(labels)
        nontarget_sums = nontargets.size - (np.arange(1, values.size + 1) - target_sums)
        frr = np.concatenate((np.atleast_1d(0), target_sums / targets.size))
        far = np.concatenate((np.atleast_1d(1), nontarget_sums / nontargets.size))
        n = np.argmin(np.abs(frr - far))
        least = float("inf")
        for i in range(len(frr)):
            cost = frr[i] * 0.01 + far[i] * (1 - 0.01)
            if cost < least:
                least = cost
        return float(np.mean((frr[n], far[n]))), least / 0.01

    found, expected = detection_error(scores, target), baseline()
    assert (found.eer, round(found.min_dcf, 12)) == (expected[0], round(expected[1], 12))
    bench.compare(
        "EER and minDCF of 10 M scores, exact",
        ours=lambda: detection_error(scores, target),
        reference=baseline,
        reference_is="FFSVC2022 baseline: a sort, and a loop over the thresholds",
        target=at_most(0.6),
        published=8.028,
        floor=2 * 9 * count / 10e9,
        floor_is="two passes over 90 MB at 10 GB/s",
    )

    llrs = 3.3 * scores - 3.3**2 / 2  # of two normal distributions 3.3 apart
    bench.compare(
        "EER, minDCF, actDCF and Cllr of 10 M scores",
        ours=lambda: (detection_error(llrs, target), llr_figures(llrs, target, [CostModel()])),
        reference=lambda: detection_error(llrs, target),
        reference_is="EER and minDCF alone",
        target=times(0.25),
    )

    def sorting() -> tuple[float, float]:
        """AUC and the pooled blocks of PAV by a sort of all trials and scipy's loop over them."""
        labels = target[np.argsort(scores, kind="stable")]
        below = np.cumsum(1 - labels)
        share = below[labels == 1].sum() / (float(target.sum()) * float((1 - target).sum()))
        return share, float(len(isotonic_regression(labels.astype(float)).blocks))

    assert abs(roc_figures(scores, target).auc - sorting()[0]) < 1e-9
    bench.compare(
        "AUC, ROCCH-EER, minCllr and two FRR at a FAR of 10 M scores",
        ours=lambda: roc_figures(scores, target, [0.01, 0.001]),
        reference=sorting,
        reference_is="AUC and PAV alone: an argsort, and scipy's isotonic regression",
    )


def memory_of_figures(bench: Bench, count: int) -> None:
    """Peak memory of all figures together, beyond the scores and their labels; in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        base, peak = fresh.submit(measured_memory, count).result()
    bench.record(
        "memory of every figure of 100 M scores, beyond the scores",
        [peak - base],
        [9 * count / 1e9],
        unit="GB",
        reference_is="the scores (float64) and labels (int8) themselves",
        target=at_most(1.0),
    )


def measured_memory(count: int) -> tuple[float, float]:
    """GB that the process had in use with the scores and labels, and that it had at most."""
    rng = np.random.default_rng(4)
    scores, target = rng.standard_normal(count), np.empty(count, np.int8)
    for first in range(0, count, 1 << 20):
        part = slice(first, first + (1 << 20))
        target[part] = rng.random(len(target[part])) < 0.1
        scores[part] += 3.3 * target[part]
    base = gigabytes("VmRSS")
    costs = [CostModel(), CostModel(0.05), CostModel(0.01, 10, 1)]
    detection_error(scores, target)
    min_detection_costs(scores, target, costs)
    llr_figures(scores, target, costs)
    roc_figures(scores, target, [0.01, 0.001])
    return base, gigabytes("VmHWM")


def gigabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


def resamples(bench: Bench, count: int, speakers: int) -> None:
    """EER and minDCF on resamples of the speakers."""
    rng = np.random.default_rng(4)
    enrol, test = rng.integers(speakers, size=(2, count))
    test[: count // 20] = enrol[: count // 20]
    target = enrol == test
    hard, like_others = 0.3 * rng.standard_normal((2, speakers))
    means = np.where(target, 1 - hard[enrol], (like_others[enrol] + like_others[test]) / 2**0.5)
    scores = means + 0.3 * rng.standard_normal(count)
    draws, looped = 1000, 20

    def ours() -> np.ndarray:
        (found,) = speaker_bootstrap([scores], target, enrol, test, replicates=draws).systems
        return np.stack([found["eer"].value_R, found["min_dcf"].value_R], axis=1)

    def one_by_one() -> np.ndarray:
        """Every draw by itself: the weight of every trial, and both running sums over the sorted trials."""
        order = np.lexsort((~target, scores))
        is_target = target[order]
        first, second = enrol[order], test[order]
        targets_below = np.append(0, np.cumsum(is_target))
        nontargets_below = np.arange(count + 1) - targets_below
        corners = np.flatnonzero(np.append(np.diff(targets_below) > 0, True))
        found = []
        for draw in range(looped):
            drawn = rng_for(0, 0, draw).integers(0, speakers, speakers)
            count_S = np.bincount(drawn, minlength=speakers)
            of_nontarget = count_S[first[~is_target]] * count_S[second[~is_target]]
            missed = np.append(0, np.cumsum(count_S[first[is_target]]))
            rejected = np.append(0, np.cumsum(of_nontarget))

            def rates(point: int | np.ndarray, missed=missed, rejected=rejected) -> tuple:
                frr = missed[targets_below[point]] / missed[-1]
                return frr, (rejected[-1] - rejected[nontargets_below[point]]) / rejected[-1]

            frr, far = rates(corners)
            least = np.min(frr * 0.01 + far * 0.99) / 0.01
            low, high = 0, count
            while high - low > 1:
                middle = (low + high) // 2
                frr, far = rates(middle)
                low, high = (low, middle) if frr >= far else (middle, high)
            frr, far = min((rates(low), rates(high)), key=lambda both: abs(both[0] - both[1]))
            found.append(((frr + far) / 2, least))
        return np.array(found)

    assert (ours()[:looped] == one_by_one()).all()
    bench.compare(
        "EER and minDCF on 1,000 resamples of 80 speakers, 1 M trials",
        ours=ours,
        reference=one_by_one,
        reference_share=looped / draws,
        reference_is="farvox 8f75144: every draw by itself, the same figures to the last digit",
        target=times(3),
        warm=False,
    )


def write_list(path: Path, utt_ids: list[str], sides: np.ndarray) -> Path:
    labels = sides.sum(axis=1) % 2  # one label a pair, however often it is drawn
    with open(path, "w") as out:
        for first in range(0, len(sides), 1 << 18):
            pairs = zip(
                labels[first : first + (1 << 18)].tolist(),
                sides[first : first + (1 << 18)].tolist(),
                strict=True,
            )
            out.writelines(f"{key} {utt_ids[a]} {utt_ids[b]}\n" for key, (a, b) in pairs)
    return path


if __name__ == "__main__":
    main()
