"""Freeze what the FFSVC2022 baseline's functions give: writes metrics.json beside this file.

    python make_metrics.py FFSVC_BASELINE_CHECKOUT

Origin: compute_eer (with compute_det_curve and ComputeMinDcf) of tools/utils.py, imported from the
checkout and run on the scores below, which are filled by a formula and not stored. Needs numpy, scipy
and torch (that file imports it). Run once; the tests import `CASES` and `scores_of` from here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# name -> number of trials, share of target trials, by how much they score higher, decimals kept, seed
CASES: dict[str, tuple[int, float, float, int, int]] = {
    "plain": (5000, 0.3, 0.8, 15, 1),
    "few targets": (5000, 0.01, 0.8, 15, 2),
    "few non-targets": (5000, 0.99, 0.8, 15, 3),
    "ties of two decimals": (5000, 0.3, 0.8, 2, 4),
    "ties of one decimal": (5000, 0.5, 0.4, 1, 5),
    "only ties": (500, 0.4, 0.0, -2, 6),
    "useless": (5000, 0.5, 0.0, 15, 7),
    "worse than useless": (2000, 0.5, -0.7, 15, 8),
    "separable": (1000, 0.5, 3.0, 15, 9),
    "separable but for one": (1000, 0.5, 1.97, 15, 10),
    "two trials": (2, 0.5, 3.0, 15, 11),
    "two trials the wrong way": (2, 0.5, -3.0, 15, 12),
    "two equal trials": (2, 0.5, 0.0, -2, 13),
    "seven trials": (7, 0.4, 0.5, 1, 14),
}
PRIORS = (0.01, 0.05, 0.5)


def scores_of(case: str) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Scores in about [-1, 1) and labels, from the generator x <- (1664525 x + 1013904223) mod 2^32."""
    num_trials, share, gap, decimals, state = CASES[case]
    values = []
    for _ in range(num_trials):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state / 2**31 - 1)
    num_target = min(max(round(share * num_trials), 1), num_trials - 1)
    target = np.zeros(num_trials, np.int8)
    target[np.arange(num_target) * num_trials // num_target] = 1
    return np.round(np.asarray(values) + gap * target, decimals), target


def main() -> None:
    """Run the baseline's function on every case."""
    path = Path(sys.argv[1]) / "tools" / "utils.py"
    spec = importlib.util.spec_from_file_location("ffsvc_utils", path)
    assert spec is not None and spec.loader is not None
    baseline: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(baseline)
    results = []
    for case in CASES:
        scores, target = scores_of(case)
        for p_target in PRIORS:
            figures = baseline.compute_eer(scores[target == 1], scores[target == 0], p_target=p_target)
            names = ("eer", "threshold", "min_dcf", "min_dcf_threshold")
            results.append(
                {"case": case, "p_target": p_target, **dict(zip(names, map(float, figures), strict=True))}
            )
    origin = "FFSVC2022 baseline, tools/utils.py: compute_eer"
    text = json.dumps({"origin": origin, "results": results}, indent=1)
    (Path(__file__).parent / "metrics.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
