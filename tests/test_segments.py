"""Clustering, assignment, metrics and protocols against brute force and other libraries."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score

from emerdiff_lib.assignment import assign_bilinear, assign_pixels
from emerdiff_lib.baselines import kmeans_cells, kmeans_pixels
from emerdiff_lib.clustering import cluster_queries, mask_embeddings
from emerdiff_lib.evaluation import metrics, protocols
from emerdiff_lib.evaluation.protocols import Record

RNG = np.random.default_rng(0)


def blobs():
    """A 6 × 8 grid whose cells belong to four well separated groups."""
    truth = (np.arange(6)[:, None] >= 3) * 2 + (np.arange(8)[None] >= 4)
    centres = RNG.normal(0, 10, (4, 5))
    return truth, torch.from_numpy(centres[truth] + RNG.normal(0, 0.1, (6, 8, 5))).float()


def test_clusters_find_well_separated_groups():
    truth, queries = blobs()
    masks = cluster_queries(queries, 4)
    assert (masks.sum(0) == 1).all()
    assert sorted(m.numpy().tobytes() for m in masks) == sorted((truth == k).tobytes() for k in range(4))
    for mask, embedding in zip(masks, mask_embeddings(queries, masks), strict=True):
        np.testing.assert_allclose(embedding, queries[mask].mean(0), rtol=1e-5)


def test_clusters_are_sorted_and_reproducible():
    queries = torch.randn(8, 8, 3, generator=torch.Generator().manual_seed(0))
    first, second = cluster_queries(queries, 5, 3), cluster_queries(queries, 5, 3)
    assert torch.equal(first, second) and (first.flatten(1).sum(1).diff() <= 0).all()


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_as_many_masks_as_there_are_distinct_vectors():
    assert len(cluster_queries(torch.ones(4, 4, 2), 3)) == 1
    with pytest.raises(ValueError, match="choose 1 to 16"):
        cluster_queries(torch.ones(4, 4, 2), 17)


def test_assignment_is_the_argmax_of_filtered_maps():
    from scipy.ndimage import gaussian_filter

    maps = RNG.random((4, 20, 30)).astype(np.float32)
    expected = np.stack([gaussian_filter(m, 1.5) for m in maps]).argmax(0)
    assert np.array_equal(assign_pixels(torch.from_numpy(maps), (20, 30), 1.5), expected)
    assert np.array_equal(assign_pixels(torch.from_numpy(maps), (20, 30), 0), maps.argmax(0))


def test_bilinear_baseline_against_torch_on_the_whole_stack():
    masks = torch.from_numpy(np.eye(5, dtype=bool)[RNG.integers(0, 5, (6, 9))]).permute(2, 0, 1)
    expected = torch.nn.functional.interpolate(masks[None].float(), size=(48, 60), mode="bilinear")[0].argmax(
        0
    )
    assert np.array_equal(assign_bilinear(masks, (48, 60)), expected)


def test_confusion_and_iou_against_scikit_learn():
    truth, predicted = RNG.integers(0, 4, (2, 30, 30))
    table = metrics.contingency_table(predicted, truth, 6, 5)
    confusion = metrics.confusion_matrix(table, np.array([0, 1, 2, 3, 4, 4]))
    assert np.array_equal(confusion, sklearn_confusion(truth.ravel(), predicted.ravel(), labels=range(5)))
    expected = jaccard_score(truth.ravel(), predicted.ravel(), labels=range(4), average=None)
    np.testing.assert_allclose(metrics.class_iou(confusion)[:4], expected)
    assert np.isnan(metrics.class_iou(confusion)[4]) and metrics.mean_iou(confusion) == pytest.approx(
        expected.mean()
    )


def test_boundary_scores_against_brute_force():
    truth, predicted = np.zeros((2, 24, 24), int)
    truth[:, 10:], predicted[:, 13:], predicted[20:] = 1, 1, 2
    a, b = np.argwhere(metrics.boundaries(predicted)), np.argwhere(metrics.boundaries(truth))
    for tolerance in (0, 1, 2, 3, 5):
        distance = np.abs(a[:, None] - b[None]).max(-1)
        precision, recall = (distance.min(1) <= tolerance).mean(), (distance.min(0) <= tolerance).mean()
        expected = precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)
        assert metrics.boundary_scores(predicted, truth, tolerance) == pytest.approx(expected)
    assert metrics.boundary_scores(truth * 0, truth * 0) == (1, 1, 1) and metrics.boundary_scores(
        truth, truth * 0
    ) == (
        0,
        0,
        0,
    )


def test_share_inside():
    response, mask = np.ones((4, 4)), np.zeros((4, 4), bool)
    mask[:2] = True
    assert metrics.share_inside(response, mask) == 0.5 and metrics.share_inside(response * 0, mask) == 0


def test_oracle_takes_each_segments_majority():
    record = Record(np.array([[5, 2, 0], [1, 1, 7]]), np.zeros((2, 1)))
    assert protocols.oracle(record).tolist() == [[5, 0, 1], [2, 0, 1], [0, 0, 7]]


def test_modified_protocol_against_pixels_one_by_one():
    """The record's shortcut equals building the mean embedding of every class pixel by pixel."""
    segments, labels = RNG.integers(0, 6, (2, 15, 15))
    labels %= 3
    embeddings = RNG.normal(size=(6, 4))
    record = Record(metrics.contingency_table(segments, labels, 6, 3), embeddings)
    pixels = embeddings[segments]
    concepts = np.stack([pixels[labels == c].mean(0) for c in range(3)])
    np.testing.assert_allclose(protocols.concept_embeddings([record]), concepts)
    nearest = np.linalg.norm(pixels[..., None, :] - concepts, axis=-1).argmin(-1)
    assert np.array_equal(
        protocols.modified(record, concepts), sklearn_confusion(labels.ravel(), nearest.ravel())
    )
    cosine = (
        (pixels @ concepts.T) / np.linalg.norm(pixels, axis=-1)[..., None] / np.linalg.norm(concepts, axis=-1)
    )
    assert np.array_equal(
        protocols.modified(record, concepts, "cosine"),
        sklearn_confusion(labels.ravel(), cosine.argmax(-1).ravel()),
    )
    with pytest.raises(ValueError, match="'euclidean', 'cosine'"):
        protocols.modified(record, concepts, "manhattan")


def test_classes_never_seen_are_never_predicted():
    record = Record(np.array([[3, 0], [2, 0]]), np.eye(2))
    concepts = protocols.concept_embeddings([record])
    assert np.isnan(concepts[1]).all() and protocols.modified(record, concepts).tolist() == [[5, 0], [0, 0]]


def test_bootstrap_interval_of_a_mean_is_the_textbooks():
    values = RNG.normal(3, 2, 400)
    value, low, high = protocols.bootstrap(protocols.mean_statistic(values), 400, draws=2000)
    half = 1.96 * values.std() / 20
    assert value == pytest.approx(values.mean()) and (low, high) == pytest.approx(
        (value - half, value + half), abs=0.03
    )


def test_colour_kmeans_separates_flat_colours():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 16:32], image[:, 32:] = (255, 0, 0), (0, 0, 255)
    for result in (kmeans_pixels(image, 3), kmeans_cells(image, 3, (8, 12))):
        assert all(
            len(np.unique(result.labels[:, s])) == 1 for s in (slice(0, 15), slice(18, 30), slice(34, 48))
        )
        order = result.labels[0, [0, 24, 47]]
        np.testing.assert_allclose(result.embeddings[order], [[0, 0, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
