"""The tables that come with scikit-learn are what its own functions make of them."""

from __future__ import annotations

import numpy as np

from orchestrator.jobs.bundled import bundled


def test_they_are_what_scikit_learn_reads() -> None:
    from sklearn.datasets import load_diabetes, load_digits

    digits, (data, target) = load_digits(), load_diabetes(scaled=False, return_X_y=True)
    assert np.array_equal(bundled("digits.csv.gz")[:, :-1].reshape(-1, 8, 8), digits.images)
    assert np.array_equal(bundled("digits.csv.gz")[:, -1], digits.target)
    assert np.array_equal(bundled("diabetes_data_raw.csv.gz", delimiter=None), data)
    assert np.array_equal(bundled("diabetes_target.csv.gz"), target)
