import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from titlesmith.evaluate.measurement import Measurement, Measurements, MissingError, mean, ratio, share

COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30)


@given(COUNTS.filter(lambda pairs: sum(b for _, b in pairs)), st.integers(0, 9))
def test_a_ratio_is_that_of_the_sums_and_the_seed_decides_its_interval(pairs, seed):
    above, below = np.array(pairs).T
    measurement = ratio(above, below, seed)
    assert measurement.value == pytest.approx(above.sum() / below.sum())
    assert measurement == ratio(above, below, seed)
    assert 0 <= measurement.interval[0] <= measurement.interval[1] < math.inf


def test_the_interval_is_the_percentile_bootstrap_that_scipy_computes():
    rng = np.random.default_rng(3)
    above, below = rng.gamma(2, 50, 300), rng.integers(5, 25, 300)
    low, high = ratio(above, below, 1).interval
    theirs = bootstrap(
        (above, below), lambda a, b: a.sum() / b.sum(), paired=True, vectorized=False, method="percentile", rng=1
    ).confidence_interval
    assert (low, high) == pytest.approx(tuple(theirs), rel=0.03)
    assert high - low < 0.3 * (above.sum() / below.sum()), "300 documents say more than that"


def test_equal_documents_have_an_interval_of_no_width():
    assert mean([0.5] * 9, 1) == Measurement(0.5, (0.5, 0.5))


def test_a_share_of_0_has_an_interval_above_0():
    measurement = share([False] * 300)
    assert measurement.value == 0 and measurement.interval[0] == 0
    assert measurement.interval[1] == pytest.approx(0.0126, abs=1e-4), "as the tables of Wilson's interval have it"
    assert share([True]).value == 1 and share([True]).interval[0] < 0.3


def test_metrics_that_cannot_be_measured_are_none_with_a_reason():
    measurements = Measurements()
    measurements.add("nothing", share, [])
    measurements.add("zero", ratio, np.zeros(3), np.zeros(3), 1)
    measurements.add("empty", mean, [], 1)
    measurements.add("nan", lambda: Measurement(math.nan))
    measurements.add("one", share, [True])
    assert measurements.values == {"nothing": None, "zero": None, "empty": None, "nan": None, "one": 1.0}
    assert set(measurements.missing) == {"nothing", "zero", "empty", "nan"} and set(measurements.intervals) == {"one"}
    with pytest.raises(MissingError, match="nothing"):
        share([])
