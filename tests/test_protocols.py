"""How segments get their classes, against brute force and pixels one by one."""

import itertools

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import confusion_matrix as sklearn_confusion

from emerdiff_lib.evaluation import metrics, protocols
from emerdiff_lib.evaluation.protocols import Record
from emerdiff_lib.evaluation.regions import sample_labels

RNG = np.random.default_rng(0)


def class_counts(true, predicted, classes):
    """(C, 3) from two lists of pixels' classes."""
    confusion = sklearn_confusion(true.ravel(), predicted.ravel(), labels=range(classes))
    return np.stack([np.diag(confusion), confusion.sum(1), confusion.sum(0)], axis=1)


def test_modified_protocol_against_pixels_one_by_one():
    """The record equals building the mean embedding of every class pixel by pixel."""
    segments, labels = RNG.integers(0, 6, (2, 15, 15))
    labels %= 3
    embeddings = RNG.normal(size=(6, 4))
    record = Record(metrics.contingency_table(segments, labels, 6, 3), embeddings)
    pixels = embeddings[segments]
    concepts = np.stack([pixels[labels == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(protocols.concept_embeddings([record]), concepts)
    nearest = np.linalg.norm(pixels[..., None, :] - concepts, axis=-1).argmin(-1)
    assert np.array_equal(protocols.modified(record, concepts), class_counts(labels, nearest, 3))
    lengths = np.linalg.norm(pixels, axis=-1)[..., None] * np.linalg.norm(concepts, axis=-1)
    expected = class_counts(labels, ((pixels @ concepts.T) / lengths).argmax(-1), 3)
    assert np.array_equal(protocols.modified(record, concepts, cosine=True), expected)


def test_classes_never_seen_are_never_predicted():
    record = Record(np.array([[3, 0], [2, 0]]), np.eye(2))
    concepts = protocols.concept_embeddings([record])
    assert np.isnan(concepts[1]).all()
    assert protocols.modified(record, concepts).tolist() == [[5, 5, 5], [0, 0, 0]]


def groups(count=60):
    """Records of four classes, each a group of its own among embeddings but for some noise, and segments of void."""
    records = []
    for _ in range(count):
        classes = RNG.integers(0, 4, 30)
        table = RNG.integers(0, 9, (30, 4))
        table[np.arange(30), classes] += 20
        table[RNG.random(30) < 0.1] = 0
        records.append(Record(table, 10 * np.eye(4)[classes] + RNG.normal(0, 0.3, (30, 4))))
    return records


@pytest.mark.parametrize("most", [50_000, 200])
def test_traditional_protocol_against_all_matchings(most, monkeypatch):
    """The best of all one-to-one matchings of scikit-learn's clusters to classes; 200 segments show the same groups."""
    monkeypatch.setattr(protocols, "SAMPLE", most)
    records = groups()
    table, embeddings = (np.concatenate(part) for part in zip(*records, strict=True))
    means = KMeans(4, n_init=10, random_state=0).fit(embeddings, sample_weight=table.sum(1))
    joint = np.stack([table[means.labels_ == cluster].sum(0) for cluster in range(4)])
    best = max(itertools.permutations(range(4)), key=lambda p: sum(joint[i, c] for i, c in enumerate(p)))
    counts = protocols.traditional(records)
    classes = np.array(best)[means.labels_[:30]]
    true = np.tile(np.arange(4), 30).repeat(table[:30].ravel())
    expected = class_counts(true, classes.repeat(table[:30].sum(1)), 4)
    assert counts.shape == (60, 4, 3) and np.array_equal(counts[0], expected)
    assert counts.sum(0)[:, 0].sum() == sum(joint[i, c] for i, c in enumerate(best))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("table", [[[9, 0], [0, 0], [0, 0]], [[9, 0], [0, 9], [0, 0]]])
def test_too_little_makes_no_clusters(table):
    """One segment that is not void, and two with the same embedding."""
    assert protocols.traditional([Record(np.array(table), np.array([[0.0], [0.0], [9.0]]))]) is None


def matchings(segments, classes):
    """Every way to give as many classes as possible a segment of their own: {class: segment}."""
    if len(segments) >= len(classes):
        return [dict(zip(classes, p, strict=True)) for p in itertools.permutations(segments, len(classes))]
    return [dict(zip(p, segments, strict=True)) for p in itertools.permutations(classes, len(segments))]


@pytest.mark.parametrize("num_segments", [2, 4, 6])
@pytest.mark.parametrize("size", [30, 128, 200])
def test_per_image_matching_against_all_matchings(num_segments, size):
    """Fewer, as many and more segments than the four classes; the best of all matchings, pixel by pixel at 128 × 128."""
    rng = np.random.default_rng(num_segments)
    truth = rng.integers(0, 4, (size, size))
    noise = rng.integers(0, num_segments, (size, size))
    segments = np.where(rng.random((size, size)) < 0.5, truth, noise) % num_segments
    truth[:4] = 255
    counts = protocols.per_image_matching(segments, truth, 4, 255)
    segments, truth = (sample_labels(labels, (128, 128)) for labels in (segments, truth))
    table = metrics.contingency_table(segments, truth, num_segments, 4, 255)
    right = lambda match: sum(table[segment, c] for c, segment in match.items())
    *_, second, best = sorted(matchings(range(num_segments), range(4)), key=right)
    assert right(best) > right(second)  # one answer alone
    known = truth != 255
    for c in range(4):
        mine = (segments == best[c]) & known if c in best else np.zeros_like(known)
        assert counts[c].tolist() == [(mine & (truth == c)).sum(), (truth == c).sum(), mine.sum()]


def test_segments_that_match_no_class_are_one_background():
    """Class 0 is everything else: the four segments in its place count as one, which takes what no class takes."""
    truth = np.zeros((128, 128), int)
    truth[:32, :32], truth[96:, 96:] = 1, 3  # class 2 does not occur
    segments = truth.copy()
    segments[64:, :64], segments[:64, 64:], segments[64:, 64:] = 4, 5, np.where(truth[64:, 64:] == 3, 3, 2)
    segments[:32, 16:32] = 6  # the half of class 1
    one = protocols.per_image_matching(segments, truth, 4, background=0)
    assert one[0].tolist() == [(truth == 0).sum(), (truth == 0).sum(), (truth == 0).sum() + 512]
    assert one[1].tolist() == [512, 1024, 512] and one[3].tolist() == [1024] * 3
    assert one[2, :2].tolist() == [0, 0]
    apart = protocols.per_image_matching(segments, truth, 4)
    assert apart[0, 0] < one[0, 0] and apart[3].tolist() == [1024] * 3
