"""Metrics against independent implementations and cases computed by hand."""

import time

import numpy as np
import pytest
from scipy.ndimage import label as scipy_components
from scipy.stats import entropy
from skimage.segmentation import find_boundaries
from sklearn.metrics import adjusted_rand_score, jaccard_score, mutual_info_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from emerdiff_lib.evaluation import label_maps, metrics, regions

RNG = np.random.default_rng(1)
VOID = 255


def blocky(classes, size=96, block=8, seed=0):
    """(size, size) random classes in square blocks."""
    cells = np.random.default_rng(seed).integers(0, classes, (size // block,) * 2)
    return cells.repeat(block, 0).repeat(block, 1)


def with_void(truth, kind):
    """A copy whose ignored pixels are bands along the borders of classes, as in PASCAL VOC, or blobs anywhere."""
    truth = truth.copy()
    if kind == "bands":
        truth[find_boundaries(truth, mode="thick")] = VOID
    else:
        for y, x in np.random.default_rng(5).integers(0, len(truth) - 12, (14, 2)):
            truth[y : y + 12, x : x + 12] = VOID
    return truth


def eroded(mask, times):
    """3 × 3 erosion of a bool mask, ``times`` over, with nothing around the picture: the minimum of nine shifts."""
    for _ in range(times):
        around = np.pad(mask, 1)
        rows, columns = mask.shape
        shifts = [around[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        mask = np.logical_and.reduce(shifts)
    return mask


def test_confusion_and_iou_against_scikit_learn():
    truth, predicted = RNG.integers(0, 4, (2, 30, 30))
    table = metrics.contingency_table(predicted, truth, 6, 5)
    confusion = metrics.confusion_matrix(table, np.array([0, 1, 2, 3, 4, 4]))
    assert np.array_equal(confusion, sklearn_confusion(truth.ravel(), predicted.ravel(), labels=range(5)))
    expected = jaccard_score(truth.ravel(), predicted.ravel(), labels=range(4), average=None)
    np.testing.assert_allclose(metrics.class_iou(confusion)[:4], expected)
    assert np.isnan(metrics.class_iou(confusion)[4])
    assert metrics.mean_iou(confusion) == pytest.approx(expected.mean())


def test_both_conventions_for_absent_classes():
    """Class 2 is predicted and never there, class 3 neither: scikit-learn's mean over the labels that each convention takes."""
    truth, predicted = RNG.integers(0, 2, 500), RNG.integers(0, 3, 500)
    confusion = sklearn_confusion(truth, predicted, labels=range(4))
    over = lambda labels: jaccard_score(truth, predicted, labels=labels, average="macro", zero_division=0)
    assert metrics.mean_iou(confusion) == pytest.approx(over([0, 1]))
    assert metrics.mean_iou(confusion, absent="zero") == pytest.approx(over([0, 1, 2]))
    with pytest.raises(ValueError, match="'skip', 'zero'"):
        metrics.mean_iou(confusion, absent="one")


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_counted_the_answer_is_nan_without_a_warning():
    void, found = np.full((16, 16), VOID), RNG.integers(0, 3, (16, 16))
    assert np.isnan(metrics.mean_iou(np.zeros((3, 3), int))) and np.isnan(
        metrics.pixel_accuracy(np.zeros((3, 3)))
    )
    assert np.isnan(metrics.boundary_scores(found, void, 2, VOID)).all()
    assert np.isnan(list(metrics.partition_scores(found, void, VOID).values())).all()
    assert not metrics.boundary_iou(found, void, 3, ignore_index=VOID).any()
    assert metrics.object_scores(found, np.arange(3), void, VOID) == []
    assert np.isnan(metrics.paired_test(np.array([np.nan, 1]), np.array([1, np.nan])))


def test_ignored_pixels_count_nowhere():
    truth, found = RNG.integers(0, 3, (20, 20)), RNG.integers(0, 4, (20, 20))
    truth[:5] = VOID
    table = metrics.contingency_table(found, truth, 4, 3, ignore_index=VOID)
    assert np.array_equal(table, metrics.contingency_table(found[5:], truth[5:], 4, 3))
    with pytest.raises(ValueError, match="Label 255 is no class"):
        metrics.contingency_table(found, truth, 4, 3)
    with pytest.raises(ValueError, match="one size"):
        metrics.contingency_table(found[1:], truth, 4, 3, VOID)
    with pytest.raises(ValueError, match=r"Segment 3 is no segment \(0 to 2\)"):
        metrics.contingency_table(found, truth, 3, 3, VOID)
    assert metrics.pixel_accuracy(np.array([[3, 1], [0, 4]])) == 7 / 8


def test_boundaries_are_those_of_no_mode_of_scikit_image():
    """Why ours stay: pixel by pixel as the words say, and unlike every mode."""
    labels = RNG.integers(0, 3, (12, 15))
    differs = lambda y, x, dy, dx: y >= dy and x >= dx and labels[y, x] != labels[y - dy, x - dx]
    expected = [[differs(y, x, 0, 1) or differs(y, x, 1, 0) for x in range(15)] for y in range(12)]
    assert np.array_equal(label_maps.boundaries(labels), expected)
    for mode in ("thick", "inner", "outer"):
        assert not np.array_equal(find_boundaries(labels, mode=mode), expected)


def boundary_scores_by_distances(predicted, truth, tolerance, void=None):
    """The docstring's sentences, with a table of all distances."""
    unknown = truth == void
    height, width = truth.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    ends = lambda y, x: [(y - dy, x - dx) for dy, dx in ((0, 1), (1, 0)) if y >= dy and x >= dx]
    edge = lambda labels, p: any(labels[p] != labels[q] for q in ends(*p))
    known_edge = lambda p: edge(truth, p) and not unknown[p] and not any(unknown[q] for q in ends(*p))
    far = lambda p: all(
        max(abs(p[0] - y), abs(p[1] - x)) > max(1, tolerance) for y, x in np.argwhere(unknown)
    )
    a, b = (np.array([p for p in pixels if test(p)]) for test in (lambda p: edge(predicted, p), known_edge))
    near = np.abs(a[:, None] - b[None]).max(-1) <= tolerance
    precision = near.any(1)[[far(tuple(p)) for p in a]].mean()
    recall = near.any(0)[[far(tuple(p)) for p in b]].mean()
    return precision, recall, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3.4])
def test_boundary_scores_against_brute_force(tolerance):
    truth, predicted = blocky(3, 24, 6, seed=1), np.roll(blocky(3, 24, 6, seed=1), 1, 1)
    predicted[14:, 7] = 2
    truth[16:20, 3:9] = VOID
    assert metrics.boundary_scores(predicted, truth, tolerance) == pytest.approx(
        boundary_scores_by_distances(predicted, truth, tolerance)
    )
    assert metrics.boundary_scores(predicted, truth, tolerance, VOID) == pytest.approx(
        boundary_scores_by_distances(predicted, truth, tolerance, VOID)
    )


def test_boundaries_that_are_missing_and_beside_ignored_pixels():
    truth, found = np.zeros((2, 20, 20), int)
    truth[:, 10:], found[:, 10:] = 1, 1
    assert metrics.boundary_scores(truth * 0, truth * 0) == (1, 1, 1)
    assert metrics.boundary_scores(truth, truth * 0) == (0, 0, 0)
    truth[12:] = VOID
    found[14:, 5] = 2  # a boundary where nothing is known
    assert metrics.boundary_scores(found, truth, 2, VOID) == (1, 1, 1)
    assert metrics.boundary_scores(found, truth, 2)[0] < 1


def test_void_beside_a_displaced_boundary_costs_nothing():
    """Everything is one pixel off and so within two; void that covers no boundary must not turn matches into misses."""
    truth = np.zeros((40, 40), int)
    truth[:, 8:], truth[:, 24:] = 1, 2
    found = np.roll(truth, 1, 1)
    found[:, 0] = 0
    assert metrics.boundary_scores(found, truth, 2) == (1, 1, 1)
    truth[:, 27:30] = VOID  # the truth's edge at 24 is three pixels away, the found one at 25 only two
    assert metrics.boundary_scores(found, truth, 2, VOID) == (1, 1, 1)


@pytest.mark.parametrize("void", ["none", "bands", "blobs"])
@pytest.mark.parametrize("share", [0.005, 0.02, 0.05])
def test_boundary_iou_is_the_official_one(void, share):
    """mask − erode(mask, 3 × 3, d times), and only then what is unknown taken away (Cheng et al.'s evaluation code)."""
    truth, found = blocky(4, seed=2), np.roll(blocky(4, seed=2), (2, 3), (0, 1))
    truth = truth if void == "none" else with_void(truth, void)
    known = truth != VOID
    counts = metrics.boundary_iou(found, truth, 5, share, ignore_index=VOID)
    d = max(1, round(share * np.hypot(96, 96)))
    for c in range(5):
        ours, true = ((m & ~eroded(m, d)) & known for m in (found == c, truth == c))
        assert counts[c].tolist() == [(ours & true).sum(), (ours | true).sum()]


def test_boundary_iou_costs_the_same_for_many_classes():
    """Classes that occur in neither map are not looked at: 459 of them cost no more than three."""
    truth, found = blocky(3, 320, seed=3), blocky(3, 320, seed=4)

    def seconds(classes):
        start = time.process_time()
        metrics.boundary_iou(found, truth, classes)
        return time.process_time() - start

    few, many = (min(seconds(n) for _ in range(3)) for n in (3, 459))
    assert many < 5 * few


def test_partition_scores_against_entropies_and_scikit_learn():
    truth, found = RNG.integers(0, 4, (30, 30)), RNG.integers(0, 6, (30, 30))
    found[:15] = truth[:15]
    scores = metrics.partition_scores(found, truth)
    entropies = [entropy(np.bincount(a.ravel())) / np.log(2) for a in (found, truth)]
    shared = mutual_info_score(truth.ravel(), found.ravel()) / np.log(2)
    assert scores["over_segmentation"] == pytest.approx(entropies[0] - shared, abs=1e-6)
    assert scores["under_segmentation"] == pytest.approx(entropies[1] - shared, abs=1e-6)
    assert scores["variation_of_information"] == pytest.approx(sum(entropies) - 2 * shared, abs=1e-6)
    n = np.array([[np.sum((found == i) & (truth == j)) for j in range(4)] for i in range(6)])
    pairs = lambda x: (x * (x - 1) / 2).sum()
    a, b, both, total = pairs(n.sum(1)), pairs(n.sum(0)), pairs(n), pairs(np.array([n.sum()]))
    by_pairs = (both - a * b / total) / ((a + b) / 2 - a * b / total)
    assert scores["adjusted_rand"] == pytest.approx(by_pairs, abs=1e-6)
    assert scores["adjusted_rand"] == pytest.approx(adjusted_rand_score(truth.ravel(), found.ravel()))
    assert metrics.partition_scores(truth, truth)["variation_of_information"] == pytest.approx(0)


def test_objects_by_hand():
    truth = np.zeros((10, 10), int)
    truth[2:4, 2:5] = 1  # six pixels
    segments = np.zeros((10, 10), int)
    segments[2:4, 3:6] = 1  # covers four of them, and two others
    rows = {r["class_index"]: r for r in metrics.object_scores(segments, np.array([0, 1]), truth)}
    assert rows[1]["area"] == 0.06
    assert rows[1]["recall"] == pytest.approx(4 / 6) and rows[1]["iou"] == pytest.approx(4 / 8)
    assert rows[0]["recall"] == pytest.approx(92 / 94) and rows[0]["iou"] == pytest.approx(92 / 96)


@pytest.mark.parametrize("void", ["bands", "blobs"])
def test_objects_are_scored_on_known_pixels_alone(void):
    """Recall and best IoU of every connected region against scikit-learn's on the pixels that are not ignored."""
    truth, segments = with_void(blocky(3, seed=6), void), np.roll(blocky(5, seed=7), 3, 0)
    named, known = np.array([0, 1, 2, 0, 1]), truth != VOID
    expected = []
    for c in range(3):
        components, count = scipy_components(truth == c)
        for i in range(1, count + 1):
            inside = (components == i)[known]
            scores = [jaccard_score(inside, (segments == k)[known]) for k in range(5)]
            expected.append(
                (c, inside.sum() / truth.size, (named[segments][known][inside] == c).mean(), max(scores))
            )
    rows = metrics.object_scores(segments, named, truth, VOID)
    found = [(r["class_index"], r["area"], r["recall"], r["iou"]) for r in rows]
    np.testing.assert_allclose(sorted(found), sorted(expected))
    again = metrics.object_scores(segments, named, truth, VOID, regions.find_regions(truth, 0, 1, VOID))
    assert again == rows


def test_what_methods_share_is_found_once_and_changes_nothing():
    truth = with_void(blocky(4, seed=8), "bands")
    shared = metrics.LabelMap(truth, VOID)
    for seed in (9, 10):
        found, named = blocky(4, seed=seed), np.arange(4)
        for tolerance in (2, 5):
            expected = metrics.boundary_scores(found, truth, tolerance, VOID)
            assert metrics.boundary_scores(found, shared, tolerance) == expected
        for share in (0.02, 0.05):
            expected = metrics.boundary_iou(found, truth, 4, share, VOID)
            assert np.array_equal(metrics.boundary_iou(found, shared, 4, share), expected)
        expected = metrics.object_scores(found, named, truth, VOID)
        assert metrics.object_scores(found, named, shared) == expected
    assert shared.regions is shared.regions and shared.rim(3) is shared.rim(3)


def test_share_inside():
    response, mask = np.ones((4, 4)), np.zeros((4, 4), bool)
    mask[:2] = True
    assert metrics.share_inside(response, mask) == 0.5 and metrics.share_inside(response * 0, mask) == 0


def test_paired_test_is_exact_for_few_pairs():
    """All seven differences positive: of 2⁷ sign patterns two are as extreme."""
    assert metrics.paired_test(np.arange(7) + 1.0, np.arange(7) * 0.5) == pytest.approx(2 / 2**7)
    assert metrics.paired_test(np.ones(4), np.ones(4)) == 1
