"""Scores of maps of any size, kind of integer, classes and void, against brute force and other libraries."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as scipy_components
from skimage.metrics import variation_of_information
from sklearn.metrics import accuracy_score, adjusted_rand_score, jaccard_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from emerdiff_lib.evaluation import metrics

RNG = np.random.default_rng(1)
VOID = 255
KINDS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def images(draw, largest=9):
    """(segments, truth, K, C, ignored label): from one pixel on, with and without void, in any kind of integer."""
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    num_segments, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    ignore = draw(st.sampled_from([None, 255, 11, 0]))
    void = [] if ignore is None else [ignore] * draw(st.integers(0, num_classes))
    labels = st.sampled_from([*range(num_classes), *void])
    numbers = lambda elements: draw(hnp.arrays(draw(st.sampled_from(KINDS)), shape, elements=elements))
    segments, truth = numbers(st.integers(0, num_segments - 1)), numbers(labels)
    return segments, truth, num_segments, num_classes, ignore


NOTHING_KNOWN = np.zeros((3, 4), np.uint8), np.full((3, 4), VOID, np.uint8), 1, 2, VOID


def pixels(shape):
    return list(itertools.product(*map(range, shape)))


@given(images())
@example(NOTHING_KNOWN)
@quick
def test_contingencies_pixel_by_pixel(image):
    segments, truth, num_segments, num_classes, ignore = image
    expected = np.zeros((num_segments, num_classes), int)
    for p in pixels(truth.shape):
        if ignore is None or truth[p] != ignore:
            expected[int(segments[p]), int(truth[p])] += 1
    table = metrics.contingency_table(segments, truth, num_segments, num_classes, ignore)
    assert np.array_equal(table, expected) and table.dtype == np.int64
    counted = metrics.contingency_table(segments, truth, None, num_classes, ignore)
    assert np.array_equal(counted, expected[: int(segments.max()) + 1])


@pytest.mark.parametrize(
    ("segments", "truth", "sentence"),
    [
        ([[0, 1]], [[0, 255]], r"Label 255 is not one of 0 to 2\."),
        ([[0, 3]], [[0, 1]], r"Segment 3 is not one of 0 to 2\."),
        ([[0]], [[0, 1]], "must be of one size"),
    ],
)
def test_what_cannot_be_counted_is_named(segments, truth, sentence):
    with pytest.raises(ValueError, match=sentence):
        metrics.contingency_table(np.array(segments), np.array(truth), 3, 3)


def test_counts_iou_and_accuracy_against_scikit_learn():
    """Class 2 is predicted and never there, class 3 neither; predictions of 4 are "none of these"."""
    truth, predicted = RNG.integers(0, 2, 500), RNG.integers(0, 3, 500)
    predicted[:50] = 4
    table = sklearn_confusion(predicted, truth, labels=range(5))[:, :4]
    counts = metrics.label_counts(table)
    expected = jaccard_score(truth, predicted, labels=range(3), average=None, zero_division=0)
    np.testing.assert_allclose(metrics.class_iou(counts), [*expected, np.nan])
    assert metrics.mean_iou(counts) == pytest.approx(expected[:2].mean())
    assert metrics.mean_iou(counts, skip_absent=False) == pytest.approx(expected.mean())
    assert metrics.pixel_accuracy(counts) == pytest.approx(accuracy_score(truth, predicted))
    both = metrics.label_counts(np.stack([table, 3 * table]))
    np.testing.assert_allclose(metrics.mean_iou(both), [expected[:2].mean()] * 2)


@given(images(), st.sampled_from([0, 0.5, 1, 2, 3.4]))
@example(NOTHING_KNOWN, 2)
@quick
def test_boundary_scores_pixel_by_pixel(image, tolerance):
    segments, truth, _, _, ignore = image
    every = pixels(truth.shape)
    unknown = {p for p in every if ignore is not None and truth[p] == ignore}
    before = lambda p: [q for q in ((p[0] - 1, p[1]), (p[0], p[1] - 1)) if min(q) >= 0]
    apart = lambda p, q: max(abs(p[0] - q[0]), abs(p[1] - q[1]))
    ours = [p for p in every if any(segments[p] != segments[q] for q in before(p))]
    known = [p for p in every if not unknown & {p, *before(p)}]
    true = [p for p in known if any(truth[p] != truth[q] for q in before(p))]
    counted = [p for p in every if all(apart(p, q) > max(1, tolerance) for q in unknown)]
    expected = np.full(3, np.nan)
    if counted:
        sides = [[p for p in side if p in counted] for side in (ours, true)]
        if not all(sides):
            expected = np.full(3, float(bool(sides[0]) == bool(sides[1])))
        else:
            near = lambda some, others: np.mean([any(apart(p, q) <= tolerance for q in others) for p in some])
            precision, recall = near(sides[0], true), near(sides[1], ours)
            expected = precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)
    np.testing.assert_allclose(metrics.boundary_scores(segments, truth, tolerance, ignore), expected)


def test_void_beside_a_displaced_boundary_costs_nothing():
    """Everything is one pixel off and so within two; void that covers no boundary must not turn matches into misses."""
    truth = np.zeros((40, 40), int)
    truth[:, 8:], truth[:, 24:] = 1, 2
    ours = np.roll(truth, 1, 1)
    ours[:, 0] = 0
    assert metrics.boundary_scores(ours, truth, 2) == (1, 1, 1)
    truth[:, 27:30] = VOID  # the truth's edge at 24 is three pixels away, ours at 25 only two
    assert metrics.boundary_scores(ours, truth, 2, VOID) == (1, 1, 1)


@given(images(largest=20))
@example(NOTHING_KNOWN)
@quick
def test_boundary_iou_of_any_image(image):
    boundary_iou_is_the_official_one(*image)


@pytest.mark.parametrize("size", [96, 250])
@pytest.mark.parametrize("void", [False, True])
def test_boundary_iou_of_larger_images(size, void):
    """Rims of 3 and 7 pixels; void in blobs anywhere."""
    cells = np.random.default_rng(2).integers(0, 4, (12, 12)).repeat(size // 12, 0).repeat(size // 12, 1)
    truth = cells.copy()
    for y, x in np.random.default_rng(5).integers(0, size - 24, (14 * void, 2)):
        truth[y : y + 12, x : x + 12] = VOID
    boundary_iou_is_the_official_one(np.roll(cells, (2, 3), (0, 1)), truth, None, 4, VOID)


def boundary_iou_is_the_official_one(predicted, truth, _, num_classes, ignore):
    """mask − erode(mask, 3 × 3, d times), and only then what is unknown taken away (Cheng et al.'s evaluation code)."""
    predicted = predicted.astype(int) % num_classes
    distance = max(1, round(0.02 * math.hypot(*truth.shape)))
    known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    counts = metrics.boundary_iou(predicted, truth, num_classes, ignore)
    for c in range(num_classes):
        masks = (predicted == c, (truth == c) if c != ignore else np.zeros_like(known))
        ours, true = ((m & ~binary_erosion(m, np.ones((3, 3)), distance)) & known for m in masks)
        assert counts[c].tolist() == [(ours & true).sum(), (ours | true).sum()]


@given(images())
@example(NOTHING_KNOWN)
@quick
def test_partitions_against_other_libraries(image):
    segments, truth, num_segments, num_classes, ignore = image
    known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    table = metrics.contingency_table(segments, truth, num_segments, num_classes, ignore)
    scores = metrics.partition_scores(table)
    if not known.any():
        assert np.isnan(list(scores.values())).all()
        return
    ours, true = segments[known].astype(int), truth[known].astype(int)
    over, under = variation_of_information(true, ours)
    expected = adjusted_rand_score(true, ours), over, under, over + under
    np.testing.assert_allclose(list(scores.values()), expected, atol=1e-9)


@given(images())
@example(NOTHING_KNOWN)
@quick
def test_objects_against_scipys_components(image):
    segments, truth, num_segments, num_classes, ignore = image
    named = np.arange(num_segments) % num_classes
    known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    expected = []
    for c in (c for c in range(num_classes) if c != ignore):
        components, count = scipy_components(truth == c)
        for inside in (components == i for i in range(1, count + 1)):
            own = [(segments == k) & known for k in range(num_segments)]
            best = max((inside & one).sum() / (inside | one).sum() for one in own)
            right = (named[segments.astype(int)][inside] == c).mean()
            expected.append((c, inside.mean(), right, best))
    rows = metrics.object_scores(segments, named, truth, ignore)
    ours = [(r["class_index"], r["area"], r["recall"], r["iou"]) for r in rows]
    np.testing.assert_allclose(np.array(sorted(ours)), np.array(sorted(expected)))
