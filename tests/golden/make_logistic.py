"""Freeze the weights of scikit-learn's logistic regression: writes logistic.json beside this file.

    python make_logistic.py

Origin: scikit-learn 1.9.1, LogisticRegression without a penalty, both kinds of trials weighing the same.
Needs scikit-learn and numpy. Run once; the test takes the features from `features_of`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
CASES = {  # number of features, of target and of non-target trials, distance of the two kinds
    "one": (1, 200, 800, 2.0),
    "two": (2, 300, 3000, 1.5),
    "three, few targets": (3, 60, 6000, 1.0),
    "four, more targets": (4, 900, 400, 0.7),
}


def features_of(case: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features [N, K] that go together, of unlike sizes, and labels [N]."""
    num_features, num_target, num_nontarget, distance = CASES[case]
    rng = np.random.default_rng(len(case))
    target = np.repeat([1, 0], [num_target, num_nontarget])
    own = rng.standard_normal((len(target), num_features))
    shared = rng.standard_normal((len(target), 1))
    mixed = own + shared + distance * target[:, None] * np.linspace(1, 0, num_features)
    return mixed * 10.0 ** np.arange(num_features) + 3, target


def main() -> None:
    """Run scikit-learn's function on every case."""
    import sklearn
    from sklearn.linear_model import LogisticRegression

    results = {}
    for case in CASES:
        features, target = features_of(case)
        weights = np.where(target == 1, 0.5 / (target == 1).sum(), 0.5 / (target == 0).sum()) * len(target)
        spread = features.std(0)
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        model.fit(features / spread, target, sample_weight=weights)
        results[case] = {
            "weights": (model.coef_[0] / spread).tolist(),
            "offset": float(model.intercept_[0]),
        }
    text = json.dumps({"origin": f"scikit-learn {sklearn.__version__}", "results": results}, indent=1)
    (HERE / "logistic.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
