"""Scores of maps of any size, kind of integer, classes and void, against brute force."""

import itertools
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import label as scipy_components
from skimage.metrics import variation_of_information
from sklearn.metrics import adjusted_rand_score

from emerdiff_lib.evaluation import metrics, protocols, tables
from emerdiff_lib.evaluation.regions import find_regions

KINDS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def pictures(draw, largest=9):
    """(segments, truth, K, C, ignored label): from one pixel on, with and without void, in any kind of integer."""
    shape = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    num_segments, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    ignore = draw(st.sampled_from([None, 255, 11, 0]))
    labels = list(range(num_classes)) + (
        [] if ignore is None else [ignore] * draw(st.integers(0, num_classes))
    )
    kinds = st.sampled_from(KINDS)
    segments = draw(hnp.arrays(draw(kinds), shape, elements=st.integers(0, num_segments - 1)))
    truth = draw(hnp.arrays(draw(kinds), shape, elements=st.sampled_from(labels)))
    return segments, truth, num_segments, num_classes, ignore


def void(kind=np.uint8):
    """Nothing is known of this one."""
    return np.zeros((3, 4), kind), np.full((3, 4), 255, kind), 1, 2, 255


def pixels(shape):
    return list(itertools.product(*map(range, shape)))


def around(p, reach):
    """Pixels within a chessboard distance, those outside of the picture too."""
    steps = range(-reach, reach + 1)
    return [(p[0] + y, p[1] + x) for y in steps for x in steps]


@given(pictures())
@example(void())
@quick
def test_contingencies_pixel_by_pixel(picture):
    segments, truth, num_segments, num_classes, ignore = picture
    expected = np.zeros((num_segments, num_classes), int)
    for p in pixels(truth.shape):
        if ignore is None or truth[p] != ignore:
            expected[int(segments[p]), int(truth[p])] += 1
    table = metrics.contingency_table(segments, truth, num_segments, num_classes, ignore)
    assert np.array_equal(table, expected) and table.dtype == np.int64


@given(pictures(), st.sampled_from([0, 0.5, 1, 2, 3.4]))
@example(void(), 2)
@quick
def test_boundary_scores_pixel_by_pixel(picture, tolerance):
    segments, truth, _, _, ignore = picture
    every, size = pixels(truth.shape), truth.shape
    unknown = {p for p in every if ignore is not None and truth[p] == ignore}
    before = lambda p: [q for q in ((p[0] - 1, p[1]), (p[0], p[1] - 1)) if min(q) >= 0]
    apart = lambda p, q: max(abs(p[0] - q[0]), abs(p[1] - q[1]))
    found = [p for p in every if any(segments[p] != segments[q] for q in before(p))]
    true = [
        p for p in every if not unknown & {p, *before(p)} and any(truth[p] != truth[q] for q in before(p))
    ]
    counted = [p for p in every if all(apart(p, q) > max(1, tolerance) for q in unknown)]
    expected = np.full(3, np.nan)
    if counted:
        sides = [[p for p in side if p in counted] for side in (found, true)]
        if not all(sides):
            expected = np.full(3, float(bool(sides[0]) == bool(sides[1])))
        else:
            near = lambda some, others: np.mean([any(apart(p, q) <= tolerance for q in others) for p in some])
            precision, recall = near(sides[0], true), near(sides[1], found)
            expected = precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)
    scores = metrics.boundary_scores(segments, truth, tolerance, ignore)
    np.testing.assert_allclose(scores, expected, err_msg=f"{size}")


@given(pictures(), st.sampled_from([0.02, 0.1, 0.3]))
@example(void(), 0.1)
@quick
def test_boundary_iou_pixel_by_pixel(picture, share):
    segments, truth, _, num_classes, ignore = picture
    reach = max(1, round(share * math.hypot(*truth.shape)))
    every = pixels(truth.shape)
    known = [p for p in every if ignore is None or truth[p] != ignore]

    def rim(labels, c):
        of_class = {p for p in every if labels[p] == c}
        return {p for p in of_class if not of_class.issuperset(around(p, reach))} & set(known)

    counts = metrics.boundary_iou(segments, truth, num_classes, share, ignore)
    for c in range(num_classes):
        ours, theirs = rim(segments, c), rim(truth, c) if c != ignore else set()
        assert counts[c].tolist() == [len(ours & theirs), len(ours | theirs)]


@given(pictures())
@example(void())
@quick
def test_partitions_against_other_libraries(picture):
    segments, truth, num_segments, num_classes, ignore = picture
    known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    scores = metrics.partition_scores(segments, truth, ignore)
    table = metrics.contingency_table(segments, truth, num_segments, num_classes, ignore)
    assert metrics.table_scores(table) == pytest.approx(scores, nan_ok=True, abs=1e-12)
    if not known.any():
        assert np.isnan(list(scores.values())).all()
        return
    found, true = segments[known].astype(int), truth[known].astype(int)
    over, under = variation_of_information(true, found)
    expected = adjusted_rand_score(true, found), over, under, over + under
    np.testing.assert_allclose(list(scores.values()), expected, atol=1e-9)


@given(pictures())
@example(void())
@quick
def test_objects_against_scipys_components(picture):
    segments, truth, num_segments, num_classes, ignore = picture
    named = np.arange(num_segments) % num_classes
    known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    expected = []
    for c in (c for c in range(num_classes) if c != ignore):
        components, count = scipy_components(truth == c)
        for i in range(1, count + 1):
            inside = components == i
            best = max(
                (inside & own).sum() / (inside | own).sum()
                for own in ((segments == k) & known for k in range(num_segments))
            )
            right = (named[segments.astype(int)][inside] == c).mean()
            expected.append((c, inside.mean(), right, best))
    rows = metrics.object_scores(segments, named, truth, ignore)
    found = [(r["class_index"], r["area"], r["recall"], r["iou"]) for r in rows]
    np.testing.assert_allclose(np.array(sorted(found)), np.array(sorted(expected)))
    assert len(find_regions(truth, 0, 1, ignore)) == len(expected)


@given(pictures())
@example(void())
@quick
def test_matched_pixels_are_as_many_as_any_matching_gets(picture):
    segments, truth, num_segments, num_classes, ignore = picture
    counts = protocols.per_image_matching(segments, truth, num_classes, ignore, size=None)
    table = metrics.contingency_table(segments, truth, num_segments, num_classes, ignore)
    padded = np.pad(table, ((0, max(0, num_classes - num_segments)), (0, 0)))
    matchings = itertools.permutations(range(len(padded)), num_classes)
    best = max(sum(padded[k, c] for c, k in enumerate(m)) for m in matchings)
    assert counts[:, 0].sum() == best and np.array_equal(counts[:, 1], table.sum(0))


@given(pictures(largest=20), st.booleans())
@example(void(), True)
@quick
def test_any_picture_can_be_scored_and_summed_up(picture, smaller):
    """No crash and no warning; numbers in their range or NaN; plain JSON; the same where the truth is shared."""
    segments, truth, num_segments, num_classes, ignore = picture
    if smaller:
        segments = segments[::2, ::2]
    embeddings = np.arange(2.0 * num_segments, dtype=np.float32).reshape(-1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = tables.score(segments, truth, embeddings, 0.1, num_classes, ignore)
        shared = tables.score(segments, metrics.LabelMap(truth, ignore), embeddings, 0.1, num_classes)
        results = [{"name": name, "methods": {"one": kept, "other": shared}} for name in "ab"]
        scores = tables.summarise(results, results[:1], draws=10)["scores"]
    assert json.dumps(kept) == json.dumps(shared)
    shares = [kept[name] for name in tables.SCORES if name.startswith("boundary")]
    assert all(math.isnan(share) or 0 <= share <= 1 for share in shares)
    known = truth.size if ignore is None else int((truth != ignore).sum())
    assert np.sum(kept["table"]) == known and sum(o["area"] for o in kept["objects"]) == pytest.approx(
        known / truth.size
    )
    assert np.isnan(scores["oracle mIoU"]).all() == (known == 0)
    assert np.array_equal(*scores.drop(columns="s / image").to_numpy(), equal_nan=True)
