"""The statistics hold what they say: tests/benchmarks/calibration.py at a smaller size, and exact enumerations."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from phibench.harness.stats import resampling
from phibench.harness.stats.sequential import log_capital

PAIRS = 4000
NOISE = 0.012  # three and a half standard errors of a rate of 5 % of 4,000


def benchmark(name: str) -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    return benchmark("calibration")


@pytest.fixture(scope="module")
def enumeration() -> ModuleType:
    return benchmark("enumeration")


@pytest.mark.parametrize("items", [50, 500, 5000])
def test_right_or_wrong(calibration: ModuleType, items: int) -> None:
    for rate, correlation in itertools.product((0.25, 0.9), (0.0, 0.8, 0.95)):
        for found in calibration.binary(items, rate, correlation, 0.0, PAIRS, 1):
            least, most = (0.94, 0.96) if "covers" in found.what else (0.04, 0.06)
            if "covers" in found.what or found.many:
                assert found.all >= least - NOISE, found
            if "covers" not in found.what or found.many:
                assert found.all <= most + NOISE, found


@pytest.mark.parametrize(
    ("items", "differing"),
    [(50, 0.02), (50, 0.2), (50, 0.69), (50, 0.94), (100, 0.1), (100, 0.9), (200, 0.02), (200, 0.5), (300, 0.0635)],
)
@pytest.mark.parametrize("winning", [0.0, 0.02, 0.1, 0.25, 0.5])
def test_tangos_interval_by_enumeration(enumeration: ModuleType, items: int, differing: float, winning: float) -> None:
    """Exact, over every outcome of any weight, lopsided ones too: no interval and no one-sided limit errs too often."""
    found = enumeration.exact(items, differing, winning)
    assert found.covers >= 0.94
    assert found.low_errs <= 0.06
    assert found.high_errs <= 0.06
    if winning == 0.5:
        assert found.alarms <= 0.06


@pytest.mark.parametrize("level", [0.01, 0.001])
@pytest.mark.parametrize(
    ("items", "differing"), [(100, 0.09), (300, 0.04), (1000, 0.018), (5000, 0.0024), (5000, 0.01)]
)
@pytest.mark.parametrize("winning", [0.0, 0.05, 0.5])
def test_one_of_many_checks_fails_no_more_often_than_its_share(
    enumeration: ModuleType, items: int, differing: float, winning: float, level: float
) -> None:
    found = enumeration.exact(items, differing, winning, level)
    assert max(found.low_errs, found.high_errs) <= 1.1 * level


@pytest.mark.parametrize("shape", ["normal", "scores", "losses"])
def test_other_metrics(calibration: ModuleType, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (resampling.bca_interval, resampling.permutation_p):
        monkeypatch.setitem(function.__kwdefaults__, "resamples", 500)
    for items in (50, 300):
        covers, alarms = calibration.continuous(shape, items, 0.5, 400, 2)
        assert 0.91 <= covers.all <= 0.985, covers
        assert 0.015 <= alarms.all <= 0.085, alarms


def test_early_stopping_never_errs_above_its_level(calibration: ModuleType) -> None:
    for changed in (0.05, 0.3):
        for found in calibration.early(1000, changed, 2000, 3):
            assert found.all <= 0.05, found


def test_a_test_without_that_guarantee_errs_often() -> None:
    """What early stopping is for: a t test looked at after every item raises a false alarm far above its level."""
    gains = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], p=[0.15, 0.7, 0.15], size=(500, 1000))
    count = np.arange(1, 1001)
    mean = np.cumsum(gains, axis=1) / count
    error = np.sqrt(np.maximum(np.cumsum(gains**2, axis=1) / count - mean**2, 1e-12) / count)
    looked = (np.abs(mean / error) > 1.96)[:, 30:].any(axis=1).mean()
    assert looked > 0.2
    betted = max(
        float((log_capital((gains + 1) / 2, 0.5, above=above).max(axis=1) >= np.log(40)).mean())
        for above in (True, False)
    )
    assert betted < 0.05


def test_predicted_power_is_measured_power(calibration: ModuleType) -> None:
    for items, changed in ((200, 0.3), (1000, 0.1), (5000, 0.05)):
        [found] = calibration.power(items, changed, PAIRS, 5)
        assert found.all == pytest.approx(0.8, abs=0.03), found
