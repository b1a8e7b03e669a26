"""Bootstrap intervals against the textbook, and against draws made one after the other by numpy's generator alone."""

import numpy as np
import pandas as pd
import pytest

from emerdiff_lib.evaluation import intervals
from emerdiff_lib.evaluation.intervals import bootstrap, interval, level_table, paired_table, verdict

RNG = np.random.default_rng(0)


def draws_of(statistic, count, draws):
    """The 95 % interval of a function of some images' indices, and its value."""
    rows = np.random.default_rng(0).integers(0, count, (draws, count))
    return statistic(np.arange(count)), *np.percentile([statistic(row) for row in rows], (2.5, 97.5))


def test_differences_draw_the_same_images_for_both():
    ours, theirs = RNG.integers(0, 50, (2, 12, 3, 3))
    # no more right than there is
    ours, theirs = (counts + counts[..., :1] * [0, 1, 1] for counts in (ours, theirs))
    theirs[:, 2] = 0  # a class that does not occur for them

    def miou(counts):
        right, true, predicted = counts.sum(0).T
        return np.mean([right[c] / (true[c] + predicted[c] - right[c]) for c in range(3) if true[c]])

    expected = draws_of(lambda rows: miou(ours[rows]) - miou(theirs[rows]), 12, 300)
    assert interval(ours, theirs, draws=300) == pytest.approx(expected)
    assert interval(ours, draws=300) == pytest.approx(draws_of(lambda rows: miou(ours[rows]), 12, 300))
    first, second = RNG.random((2, 12))
    expected = draws_of(lambda rows: (first - second)[rows].mean(), 12, 300)
    assert interval(first, second, draws=300) == pytest.approx(expected)
    ratio = lambda rows: first[rows].sum(-1) / second[rows].sum(-1)
    assert bootstrap(ratio, 12, 300) == pytest.approx(draws_of(ratio, 12, 300))


def test_consecutive_images_are_drawn_together():
    flips, first = np.array([1.0, -1.0] * 8), RNG.random(9)
    assert interval(flips, block=2) == (0, 0, 0) and interval(first)[1] < first.mean()
    assert interval(first, block=9) == pytest.approx((first.mean(),) * 3)


@pytest.mark.filterwarnings("error")
def test_where_values_are_missing():
    values = np.array([1.0, np.nan, 3.0, 2.0] * 2)
    value, low, high = interval(values)
    assert value == 2 and 1 <= low < 2 < high <= 3
    assert interval(values, np.array([0.0, 1.0, np.nan, 0.0] * 2))[0] == 1.5
    one, *ends = interval(values[:7])
    assert one == 2 and np.isnan(ends).all()
    assert np.isnan(interval(values[[1] * 8])).all()
    assert np.isnan(bootstrap(lambda rows: (0 * rows).sum(-1) / np.float64(0), 8)).all()


def test_a_verdict_is_what_the_interval_of_enough_images_says():
    """Two images that differ alike resample to an interval that excludes 0, which proves nothing."""
    said = [verdict(*interval(np.full(count, 3.0))[1:]) for count in (2, 7, 8)]
    assert said == ["too few images for a verdict"] * 2 + ["ahead"]
    assert [verdict(*ends) for ends in ((-8.7, -3.3), (-1, 0.0))] == ["behind", "not significant"]


def test_a_pair_in_words_has_leads_first_and_every_interval():
    rows = [("ARI", 0.2, -0.3, 0.8), ("mIoU", -2.8, -3.2, -2.3), ("F", 2.5, 0.4, 4.6)]
    rows = pd.DataFrame(rows, columns=["measure", "points", "low", "high"])
    unclear = "not significant: +0.2 [−0.3, +0.8] points of ARI."
    leads = "A is ahead of B by 2.5 [0.4, 4.6] points of F; behind it by 2.8 [2.3, 3.2] points of mIoU; "
    assert intervals.in_words("A", "B", rows) == leads + unclear
    assert intervals.in_words("A", "B", rows[:1]) == "A minus B is " + unclear


def test_tables_hold_intervals_in_percent():
    scores = {name: {"F": RNG.random(9), "mIoU": RNG.integers(0, 9, (9, 2, 3))} for name in "abc"}
    del scores["c"]["mIoU"]
    levels = level_table(scores, draws=50).set_index(["method", "measure"])
    assert len(levels) == 5
    expected = 100 * np.array(interval(scores["b"]["mIoU"], draws=50))
    assert levels.loc[("b", "mIoU")].tolist() == pytest.approx(expected)
    pairs = paired_table(scores, [("a", "b"), ("c", "a"), ("a", "unknown")], draws=50)
    assert pairs.iloc[:, :3].to_numpy().tolist() == [["a", "b", "F"], ["a", "b", "mIoU"], ["c", "a", "F"]]
    expected = 100 * np.array(interval(scores["c"]["F"], scores["a"]["F"], draws=50))
    assert pairs.iloc[2, 3:].tolist() == pytest.approx(expected)
    assert list(paired_table(scores, [])) == list(pairs)
