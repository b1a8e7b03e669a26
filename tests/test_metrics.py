"""Metrics, protocols, choice of K and grouping against independent implementations and cases computed by hand."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.stats import entropy
from skimage.metrics import adapted_rand_error
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from emerdiff_lib.clustering import RULES, choose_num_masks, group_masks, mask_adjacency
from emerdiff_lib.evaluation import metrics, protocols
from emerdiff_lib.evaluation.protocols import Record

RNG = np.random.default_rng(1)


def test_ignored_pixels_count_nowhere():
    truth, found = RNG.integers(0, 3, (20, 20)), RNG.integers(0, 4, (20, 20))
    truth[:5] = 255
    table = metrics.contingency_table(found, truth, 4, 3, ignore_index=255)
    assert np.array_equal(table, metrics.contingency_table(found[5:], truth[5:], 4, 3))
    with pytest.raises(ValueError, match="Label 255 is no class"):
        metrics.contingency_table(found, truth, 4, 3)
    with pytest.raises(ValueError, match="one size"):
        metrics.contingency_table(found[1:], truth, 4, 3, 255)
    assert metrics.pixel_accuracy(np.array([[3, 1], [0, 4]])) == 7 / 8


def test_boundaries_beside_ignored_pixels_do_not_count():
    truth, found = np.zeros((2, 20, 20), int)
    truth[:, 10:], found[:, 10:] = 1, 1
    truth[12:] = 255
    found[14:, 5] = 2  # a boundary where nothing is known
    assert metrics.boundary_scores(found, truth, 2, ignore_index=255) == (1, 1, 1)
    assert metrics.boundary_scores(found, truth, 2)[0] < 1


def test_boundary_iou_against_erosion():
    truth, found = RNG.integers(0, 2, (2, 4, 4)).repeat(12, 1).repeat(12, 2)
    counts = metrics.boundary_iou(found, truth, 2, share=0.03)
    d = round(0.03 * np.hypot(48, 48))
    for c in (0, 1):
        rims = [
            m & ~binary_erosion(m, np.ones((3, 3)), iterations=d, border_value=0)
            for m in (found == c, truth == c)
        ]
        assert counts[c].tolist() == [(rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()]


def test_partition_scores_against_entropies_and_scikit_image():
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
    assert scores["adjusted_rand"] == pytest.approx(
        (both - a * b / total) / ((a + b) / 2 - a * b / total), abs=1e-6
    )
    assert scores["adjusted_rand"] == pytest.approx(adjusted_rand_score(truth.ravel(), found.ravel()))
    assert metrics.partition_scores(truth, truth)["variation_of_information"] == pytest.approx(0)
    assert adapted_rand_error(truth + 1, truth + 1)[0] == pytest.approx(0)


def test_objects_by_hand():
    truth = np.zeros((10, 10), int)
    truth[2:4, 2:5] = 1  # six pixels
    segments = np.zeros((10, 10), int)
    segments[2:4, 3:6] = 1  # covers four of them, and two others
    rows = {r["class_index"]: r for r in metrics.object_scores(segments, np.array([0, 1]), truth)}
    assert (
        rows[1]["area"] == 0.06
        and rows[1]["recall"] == pytest.approx(4 / 6)
        and rows[1]["iou"] == pytest.approx(4 / 8)
    )
    assert rows[0]["recall"] == pytest.approx(92 / 94) and rows[0]["iou"] == pytest.approx(92 / 96)
    assert [metrics.area_bin(a) for a in (0.001, 0.01, 0.049, 0.05, 0.2, 1.0)] == [
        "< 1 %",
        "1–5 %",
        "1–5 %",
        "5–20 %",
        "> 20 %",
        "> 20 %",
    ]


def test_paired_test_is_exact_for_few_pairs():
    """All seven differences positive: of 2⁷ sign patterns two are as extreme."""
    assert metrics.paired_test(np.arange(7) + 1.0, np.arange(7) * 0.5) == pytest.approx(2 / 2**7)
    assert metrics.paired_test(np.ones(4), np.ones(4)) == 1


def test_traditional_protocol_against_pixels_and_all_matchings():
    """Pixel-level k-means from the same starts, and the best of all one-to-one matchings by brute force."""
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    records = []
    for _ in range(4):
        classes = RNG.integers(0, 3, 5)
        table = RNG.integers(0, 4, (5, 3))
        table[np.arange(5), classes] += 30
        records.append(Record(table, centres[classes] + RNG.normal(0, 0.1, (5, 2))))
    total = sum(protocols.traditional(records))
    clusters = protocols.data_set_clusters(records, 3)
    joint = np.zeros((3, 3), int)
    for record, found in zip(records, clusters, strict=True):
        for k, cluster in enumerate(found):
            joint[cluster] += record.table[k]
    best = max(sum(joint[i, p[i]] for i in range(3)) for p in itertools.permutations(range(3)))
    assert np.trace(total) == best and total.sum() == sum(r.table.sum() for r in records)
    with pytest.raises(ValueError, match="cannot make 30 clusters"):
        protocols.data_set_clusters(records, 30)


def test_weighted_segments_are_pixels():
    """k-means of segments weighted by pixels finds the pixel-weighted means, not the means of segments."""
    few = Record(np.array([[1000, 0], [1, 0], [0, 1000]]), np.array([[0.0], [1.0], [10.0]]))
    (clusters,) = protocols.data_set_clusters([few], 2)
    assert clusters[0] == clusters[1] != clusters[2]


def grouped_queries(groups=5, size=12, noise=0.05):
    centres = torch.randn(groups, 6, generator=torch.Generator().manual_seed(3)) * 3
    which = (torch.arange(size)[:, None] * groups // size).expand(size, size)
    return centres[which] + noise * torch.randn(size, size, 6, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("rule", RULES)
def test_the_number_of_masks_is_found_where_it_is_plain(rule):
    best, scores = choose_num_masks(grouped_queries(5), [2, 3, 4, 5, 6, 8], rule)
    assert best == 5 and set(scores) == {2, 3, 4, 5, 6, 8}


def test_impossible_choices_are_named():
    with pytest.raises(ValueError, match="silhouette"):
        choose_num_masks(grouped_queries(), [2], "elbow")
    with pytest.raises(ValueError, match="from 2 to 143"):
        choose_num_masks(grouped_queries(), [1, 2])
    with pytest.raises(ValueError, match="choose 1 to 2"):
        group_masks(np.zeros((2, 1)), np.eye(2, dtype=bool)[:, None], 3)


def test_grouping_joins_what_is_alike_and_touches():
    stripes = np.stack([np.arange(8)[None].repeat(4, 0) // 2 == k for k in range(4)])
    embeddings = np.array([[0.0], [5.0], [0.1], [5.2]])
    assert mask_adjacency(stripes).tolist() == [[abs(i - j) == 1 for j in range(4)] for i in range(4)]
    anywhere = group_masks(embeddings, stripes, 2, adjacent_only=False)
    assert anywhere[0] == anywhere[2] != anywhere[1] == anywhere[3]
    touching = group_masks(embeddings, stripes, 3)
    assert len(set(touching)) == 3 and touching[0] != touching[2]  # alike, but apart
    assert set(group_masks(embeddings, stripes, 1)) == {0}


def test_grouping_is_ward_clustering_when_anything_may_join():
    from scipy.cluster.hierarchy import fcluster, linkage

    embeddings = RNG.normal(size=(9, 3))
    masks = np.eye(9, dtype=bool).reshape(9, 3, 3)
    ours = group_masks(embeddings, masks, 4, adjacent_only=False)
    scipys = fcluster(linkage(embeddings, "ward"), 4, "maxclust")
    assert adjusted_rand_score(ours, scipys) == 1
