"""Clustering, choice of K, grouping, assignment and protocols against brute force and other libraries."""

import itertools

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from emerdiff_lib.assignment import assign_bilinear, assign_pixels
from emerdiff_lib.baselines import kmeans_cells, kmeans_pixels
from emerdiff_lib.clustering import (
    RULES,
    choose_num_masks,
    cluster_queries,
    group_masks,
    mask_adjacency,
    mask_embeddings,
)
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


def grouped_queries(groups=5, size=12, noise=0.05):
    centres = torch.randn(groups, 6, generator=torch.Generator().manual_seed(3)) * 3
    which = (torch.arange(size)[:, None] * groups // size).expand(size, size)
    return centres[which] + noise * torch.randn(size, size, 6, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("rule", RULES)
def test_the_number_of_masks_is_found_where_it_is_plain(rule):
    best, scores = choose_num_masks(grouped_queries(5), [2, 3, 4, 5, 6, 8], rule)
    assert best == 5 and set(scores) == {2, 3, 4, 5, 6, 8}


def test_impossible_choices_are_named():
    with pytest.raises(ValueError, match="from 2 to 143"):
        choose_num_masks(grouped_queries(), [1, 2])


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
    embeddings = RNG.normal(size=(9, 3))
    ours = group_masks(embeddings, np.eye(9, dtype=bool).reshape(9, 3, 3), 4, adjacent_only=False)
    scipys = fcluster(linkage(embeddings, "ward"), 4, "maxclust")
    assert adjusted_rand_score(ours, scipys) == 1


def test_assignment_is_the_argmax_of_the_maps_at_the_pictures_size():
    maps = torch.from_numpy(RNG.random((4, 20, 30)).astype(np.float32))
    assert np.array_equal(assign_pixels(maps, (20, 30)), maps.numpy().argmax(0))
    expected = torch.nn.functional.interpolate(maps[None], size=(50, 41), mode="bilinear")[0].argmax(0)
    assert np.array_equal(assign_pixels(maps, (50, 41)), expected)


def test_bilinear_baseline_against_torch_on_the_whole_stack():
    masks = torch.from_numpy(np.eye(5, dtype=bool)[RNG.integers(0, 5, (6, 9))]).permute(2, 0, 1)
    stack = torch.nn.functional.interpolate(masks[None].float(), size=(48, 60), mode="bilinear")
    assert np.array_equal(assign_bilinear(masks, (48, 60)), stack[0].argmax(0))


def test_colour_kmeans_separates_flat_colours():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 16:32], image[:, 32:] = (255, 0, 0), (0, 0, 255)
    stripes = (slice(0, 15), slice(18, 30), slice(34, 48))
    # a cell's colour reaches half a cell into its neighbour, where features are brought to the picture's size
    for result, blurred in ((kmeans_pixels(image, 3), 1e-6), (kmeans_cells(image, 3, (8, 12)), 0.07)):
        assert all(len(np.unique(result.labels[:, s])) == 1 for s in stripes)
        order = result.labels[0, [0, 24, 47]]
        np.testing.assert_allclose(result.embeddings[order], [[0, 0, 0], [1, 0, 0], [0, 0, 1]], atol=blurred)


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
    expected = sklearn_confusion(labels.ravel(), nearest.ravel())
    assert np.array_equal(protocols.modified(record, concepts), expected)
    lengths = np.linalg.norm(pixels, axis=-1)[..., None] * np.linalg.norm(concepts, axis=-1)
    expected = sklearn_confusion(labels.ravel(), ((pixels @ concepts.T) / lengths).argmax(-1).ravel())
    assert np.array_equal(protocols.modified(record, concepts, "cosine"), expected)
    with pytest.raises(ValueError, match="'euclidean', 'cosine'"):
        protocols.modified(record, concepts, "manhattan")


def test_classes_never_seen_are_never_predicted():
    record = Record(np.array([[3, 0], [2, 0]]), np.eye(2))
    concepts = protocols.concept_embeddings([record])
    assert np.isnan(concepts[1]).all() and protocols.modified(record, concepts).tolist() == [[5, 0], [0, 0]]


def test_traditional_protocol_against_all_matchings():
    """The best of all one-to-one matchings of the data set's clusters to classes, by brute force."""
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


def test_segments_of_ignored_pixels_make_no_cluster():
    void = Record(np.array([[9, 0], [0, 0], [0, 0]]), np.array([[0.0], [5.0], [9.0]]))
    with pytest.raises(ValueError, match="1 segments cannot make 2"):
        protocols.data_set_clusters([void], 2)


def matchings(segments, classes):
    """Every way to give as many classes as possible a segment of their own: {class: segment}."""
    if len(segments) >= len(classes):
        return [dict(zip(classes, p, strict=True)) for p in itertools.permutations(segments, len(classes))]
    return [dict(zip(p, segments, strict=True)) for p in itertools.permutations(classes, len(segments))]


@pytest.mark.parametrize("num_segments", [2, 4, 6])
def test_per_image_matching_against_all_matchings(num_segments):
    """Fewer, as many and more segments than the four classes; the best of all matchings, pixel by pixel."""
    rng = np.random.default_rng(num_segments)
    truth = rng.integers(0, 4, (30, 30))
    segments = (
        np.where(rng.random((30, 30)) < 0.5, truth, rng.integers(0, num_segments, (30, 30))) % num_segments
    )
    truth[:4] = 255
    counts = protocols.per_image_matching(segments, truth, 4, 255, size=None)
    table = metrics.contingency_table(segments, truth, num_segments, 4, 255)
    right = lambda match: sum(table[segment, c] for c, segment in match.items())
    every = sorted(matchings(range(num_segments), range(4)), key=right)
    best = every[-1]
    assert right(best) > right(every[-2])  # one answer alone
    known = truth != 255
    for c in range(4):
        mine = (segments == best[c]) & known if c in best else np.zeros_like(known)
        assert counts[c].tolist() == [(mine & (truth == c)).sum(), (truth == c).sum(), mine.sum()]


def test_per_image_matching_compares_at_128():
    """Blocks of two pixels: at half the size a quarter of the pixels, and the same quotients."""
    cells, found = RNG.integers(0, 3, (2, 128, 128))
    large = [a.repeat(2, 0).repeat(2, 1) for a in (found, cells)]
    small = protocols.per_image_matching(found, cells, 3)
    assert np.array_equal(protocols.per_image_matching(*large, 3), small)
    assert np.array_equal(protocols.per_image_matching(*large, 3, size=None), 4 * small)


def test_bootstrap_interval_of_a_mean_is_the_textbooks():
    values = RNG.normal(3, 2, 400)
    value, low, high = protocols.bootstrap(protocols.mean_statistic(values), 400, draws=2000)
    half = 1.96 * values.std() / 20
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.03)


def test_paired_bootstrap_draws_the_same_images_for_both():
    """mIoU differences of resampled sums, one draw after the other, with numpy's generator alone."""
    ours, theirs = RNG.integers(0, 50, (2, 12, 3, 3))
    theirs[:, 2] = 0  # a class that does not occur for them
    draws = np.random.default_rng(7).integers(0, 12, (300, 12))

    def miou(confusion):
        iou = [
            confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]) for c in range(3)
        ]
        return np.mean([iou[c] for c in range(3) if confusion[c].sum()])

    expected = [miou(ours[rows].sum(0)) - miou(theirs[rows].sum(0)) for rows in draws]
    found = protocols.bootstrap(protocols.miou_statistic(ours, minus=theirs), 12, draws=300, seed=7)
    assert found[0] == pytest.approx(miou(ours.sum(0)) - miou(theirs.sum(0)))
    assert found[1:] == pytest.approx(np.percentile(expected, (2.5, 97.5)))
    one_by_one = protocols.bootstrap(
        lambda rows: miou(ours[rows].sum(0)) - miou(theirs[rows].sum(0)), 12, draws=300, seed=7
    )
    assert one_by_one == pytest.approx(found)


@pytest.mark.filterwarnings("error")
def test_bootstrap_where_values_are_missing():
    values = np.array([1.0, np.nan, 3.0, 2.0])
    value, low, high = protocols.bootstrap(protocols.mean_statistic(values), 4)
    assert value == 2 and 1 <= low < 2 < high <= 3
    (one, *interval), nothing = (
        protocols.bootstrap(protocols.mean_statistic(v), len(v)) for v in (values[:1], values[[1, 1]])
    )
    assert one == 1 and np.isnan(interval).all() and np.isnan(nothing).all()
    difference = protocols.mean_statistic(values, minus=np.array([0.0, 1.0, np.nan, 0.0]))
    assert protocols.bootstrap(difference, 4)[0] == 1.5
