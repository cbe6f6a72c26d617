"""Shares of classes."""

import numpy as np
from support_prepare import radiographs, shown

from medssl_monai.prepare.prepare import prepare


def test_every_number_of_patients_holds_each_finding_in_about_its_share(tmp_path):
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 100, 200)
    of_patient = rng.random((100, 3)) < (0.5, 0.2, 0.08)
    np.savez(
        tmp_path / "set.npz",
        images=radiographs(200, side=16),
        labels=of_patient[patients].astype(np.int8),
        ids=np.array([f"i{k}" for k in range(200)]),
        patients=np.array([f"p{patient}" for patient in patients]),
    )
    total = of_patient[np.unique(patients)].sum(axis=0)
    for fraction in (0.1, 0.2, 0.5):
        options = {"split": (1, 0, 0), "labels": fraction, "labels_by": "group"}
        path = prepare(tmp_path / "set.npz", tmp_path / str(fraction), **options)
        groups = [int(name[1:]) for name in shown(path)]
        assert np.abs(of_patient[groups].sum(axis=0) - fraction * total).max() < 1.5
