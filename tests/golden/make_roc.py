"""Freeze what scikit-learn gives on the scores of make_metrics.py: writes roc.json beside this file.

    python make_roc.py

Origin: scikit-learn 1.9.1: roc_auc_score, roc_curve, log_loss with both kinds of trials weighing the same,
and IsotonicRegression with such weights (its fitted values are the posteriors of the PAV solution, so that
their log loss is minCllr). Needs scikit-learn and numpy. Run once.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import sklearn
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

HERE = Path(__file__).parent
FARS = (0.001, 0.01, 0.1, 0.5)
SCALE, OFFSET = 3.0, -1.0  # of the log-likelihood ratios


def main() -> None:
    """Run scikit-learn's functions on every case."""
    made = runpy.run_path(str(HERE / "make_metrics.py"))
    results = []
    for case in made["CASES"]:
        scores, target = made["scores_of"](case)
        weights = np.where(target == 1, 0.5 / (target == 1).sum(), 0.5 / (target == 0).sum())
        far, hits, _ = roc_curve(target, scores, drop_intermediate=False)
        posterior = 1 / (1 + np.exp(-(SCALE * scores + OFFSET)))
        fitted = IsotonicRegression().fit(scores, target, sample_weight=weights).predict(scores)
        results.append(
            {
                "case": case,
                "auc": float(roc_auc_score(target, scores)),
                "cllr": float(log_loss(target, posterior, sample_weight=weights) / np.log(2)),
                "min_cllr": float(log_loss(target, fitted, sample_weight=weights) / np.log(2)),
                "frr_at": [float(1 - hits[far <= at].max()) for at in FARS],
            }
        )
    origin = f"scikit-learn {sklearn.__version__}"
    settings = {"fars": FARS, "scale": SCALE, "offset": OFFSET}
    text = json.dumps({"origin": origin, **settings, "results": results}, indent=1)
    (HERE / "roc.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
