"""Statistics that stream and merge, against the same tables from all pictures at once."""

import itertools
import pickle
import tracemalloc
import weakref

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from emerdiff_lib.evaluation import metrics, protocols, sampling, tables
from emerdiff_lib.evaluation.fitting import Fitting, places
from emerdiff_lib.evaluation.protocols import Record
from emerdiff_lib.evaluation.statistics import Mean, Statistics

CLASSES, SEGMENTS, LENGTH = 4, 5, 3
METHODS = ("the one", "the other", "a third")
MEASURES = ("oracle", "modified", "boundary_f")


def result(seed, methods=METHODS):
    """What ``tables.score`` keeps of a picture, made up: embeddings near their segment's class, sizes of all kinds."""
    rng, entries = np.random.default_rng(seed), {}
    for number, method in enumerate(methods):
        classes = rng.integers(0, CLASSES, SEGMENTS)
        table = rng.integers(0, 40, (SEGMENTS, CLASSES)) * (rng.random((SEGMENTS, CLASSES)) < 0.6)
        table[np.arange(SEGMENTS), classes] += rng.integers(0, 200, SEGMENTS)
        embeddings = np.eye(CLASSES, LENGTH)[classes] + rng.normal(0, 0.3 + number / 5, (SEGMENTS, LENGTH))
        scores = {name: float(rng.random()) for name in tables.SCORES} | {"segments": SEGMENTS}
        if seed % 7 == 3:
            scores |= {"boundary_f": float("nan"), "adjusted_rand": float("nan")}
        union = rng.integers(1, 60, CLASSES)
        right, true, predicted = rng.integers(0, 30, CLASSES), *rng.integers(30, 60, (2, CLASSES))
        objects = [
            {"class_index": 0, "area": float(a), "recall": float(r), "iou": float(i)}
            for a, r, i in rng.random((rng.integers(0, 6), 3)) ** [3, 1, 1]
        ]
        entries[method] = scores | {
            "boundary_iou": np.stack([rng.integers(0, union + 1), union], 1).tolist(),
            "matched": np.stack([right, true, predicted], 1).tolist(),
            "objects": objects,
            "table": table.tolist(),
            "embeddings": np.round(embeddings, 5).tolist(),
        }
    return {"name": f"{seed}", "methods": entries}


class Pictures:
    """Results made anew at every reading, one at a time; remembers how many were there at once."""

    def __init__(self, seeds):
        self.seeds, self.alive, self.most, self.readings = seeds, weakref.WeakSet(), 0, 0

    def __iter__(self):
        self.readings += 1
        for seed in self.seeds:
            one = _Watched(result(seed))
            self.alive.add(one)
            self.most = max(self.most, len(self.alive))
            yield one
            del one


class _Watched(dict):
    __hash__ = object.__hash__


def all_at_once(results, fit, draws):
    """Every table from all pictures in memory: confusions stacked, pandas' means, one bootstrap after the other."""

    def records(part, method):
        entries = [r["methods"][method] for r in part]
        return [Record(np.array(e["table"]), np.array(e["embeddings"])) for e in entries]

    methods, confusions = list(results[0]["methods"]), {}
    for method in methods:
        own = records(results, method)
        same, other = protocols.concept_embeddings(own), protocols.concept_embeddings(records(fit, method))
        confusions[method] = {
            "oracle": [protocols.oracle(r) for r in own],
            "traditional": protocols.traditional(own),
            "modified_self": [protocols.modified(r, same) for r in own],
            "modified": [protocols.modified(r, other) for r in own],
            "modified_cosine": [protocols.modified(r, other, "cosine") for r in own],
        }
    rows = tables.per_image_rows(results)
    values = {m: {n: np.stack(c) for n, c in found.items()} for m, found in confusions.items()}
    for method, part in rows.groupby("method"):
        values[method]["boundary_f"] = part["boundary_f"].to_numpy()
    scores, intervals, paired, objects = {}, [], [], {}
    for method in methods:
        entries = [r["methods"][method] for r in results]
        row = {name: 100 * metrics.mean_iou(np.sum(c, 0)) for name, c in confusions[method].items()}
        row["matched"] = 100 * metrics.mean_iou_of_counts(
            sum(np.array(e["matched"]) for e in entries), "zero"
        )
        row["accuracy"] = 100 * metrics.pixel_accuracy(np.sum(confusions[method]["oracle"], 0))
        inside, union = sum(np.array(e["boundary_iou"]) for e in entries).T
        row["boundary_iou"] = 100 * (inside / union).mean()
        means = rows[rows.method == method][list(tables.SCORES)].mean()
        plain = ("variation_of_information", "segments", "seconds")
        row |= {name: value * (1 if name in plain else 100) for name, value in means.items()}
        scores[method] = {column: row[name] for name, column in tables.TABLE.items()}
        for name in MEASURES:
            statistic = protocols.mean_statistic if name == "boundary_f" else protocols.miou_statistic
            found = protocols.bootstrap(statistic(values[method][name]), len(results), draws)
            intervals.append((method, name, *(100 * np.array(found))))
            if method == methods[0]:
                continue
            both = values[methods[0]][name], values[method][name]
            found = protocols.bootstrap(statistic(*both), len(results), draws)
            each = both if name == "boundary_f" else [[metrics.pixel_accuracy(c) for c in v] for v in both]
            paired.append((method, name, *(100 * np.array(found)), metrics.paired_test(*each)))
        sized = pd.DataFrame(
            [(metrics.area_bin(o["area"]), o["recall"], o["iou"]) for e in entries for o in e["objects"]]
        )
        objects[method] = 100 * sized.groupby(0).mean()
    return scores, intervals, paired, objects


def assert_same(found, expected):
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def counted(parts, where, **options):
    """Statistics of every part."""
    found = []
    for part in parts:
        statistics = Statistics(**options)
        for one in part:
            statistics.update(one, where)
        found.append(statistics)
    return found


def test_streamed_tables_are_those_of_all_pictures_at_once():
    seeds, fit = range(3, 26), [result(seed) for seed in range(100, 112)]
    results = [result(seed) for seed in seeds]
    found = tables.summarise(Pictures(seeds), fit, draws=200)
    scores, intervals, paired, objects = all_at_once(results, fit, 200)
    pd.testing.assert_frame_equal(found["scores"], pd.DataFrame(scores).T, check_names=False, rtol=1e-12)
    for name, expected in (("intervals", intervals), ("paired", paired)):
        expected = pd.DataFrame(expected, columns=found[name].columns)
        pd.testing.assert_frame_equal(found[name], expected, rtol=1e-12, atol=1e-12)
    for method, expected in objects.items():
        for area, (recall, iou) in expected.iterrows():
            row = found["objects"].loc[method]
            assert row["recall", area] == pytest.approx(recall) and row["IoU", area] == pytest.approx(iou)
    assert_same(tables.summarise(results, fit, draws=200), found)
    assert "drawn with replacement" in found["intervals"].attrs["bootstrap"]


def test_one_picture_is_in_memory_at_a_time():
    pictures, fit = Pictures(range(30)), Pictures(range(100, 120))
    tables.summarise(pictures, fit, draws=20)
    assert pictures.most <= 2 and pictures.readings == 2
    assert fit.most <= 2 and fit.readings == 1


def test_what_can_be_read_only_once_is_refused():
    with pytest.raises(ValueError, match="read only once"):
        tables.summarise((result(seed) for seed in range(3)), [])
    with pytest.raises(ValueError, match="no results"):
        tables.summarise(Pictures([]), [])


@pytest.mark.parametrize("exact_up_to", [1000, 4])
def test_parts_merge_to_the_same_tables_in_any_order(exact_up_to):
    """To the last bit, whether pictures are drawn or weighted; 4 is passed while counting in some parts, in merging in others."""
    results = [result(seed) for seed in range(14)]
    where = places(Fitting.of(results), Fitting.of([result(seed) for seed in range(100, 105)]))
    options = dict(draws=50, exact_up_to=exact_up_to)
    (whole,) = counted([results], where, **options)
    expected = tables.tabulate(whole)
    rng = np.random.default_rng(0)
    for parts in (1, 2, 3, 5):
        order = rng.permutation(14)
        some = counted(
            [[results[i] for i in part] for part in np.array_split(order, parts)], where, **options
        )
        merged = Statistics(**options)
        for statistics in some:
            merged.merge(pickle.loads(pickle.dumps(statistics)))
        assert_same(tables.tabulate(merged), expected)
    assert whole.exact == (exact_up_to == 1000)
    assert ("Poisson" in expected["paired"].attrs["bootstrap"]) != whole.exact


def test_fitted_parts_merge_to_the_same_places():
    results = [result(seed) for seed in range(12)]
    whole, merged = Fitting.of(results, sample=30), Fitting(sample=30)
    for part in (results[7:], results[:4], results[4:7]):
        merged.merge(Fitting.of(part, sample=30))
    for method, found in places(merged, merged).items():
        for name, expected in places(whole, whole)[method].items():
            np.testing.assert_allclose(found[name].where, expected.where, rtol=1e-12)
    assert set(found) == {"traditional", "modified_self", "modified", "modified_cosine"}


def test_weights_of_pictures_are_poisson_and_their_own():
    identities = [sampling.identity(f"picture {i}") for i in range(400)]
    weights = sampling.poisson_weights(identities, 500)
    assert weights.mean() == pytest.approx(1, abs=0.02) and weights.var() == pytest.approx(1, abs=0.03)
    of_pictures, of_draws = np.corrcoef(weights), np.corrcoef(weights.T)
    for table in (of_pictures, of_draws):  # independent ones would have 1/√n
        assert np.abs(table - np.eye(len(table))).max() < 0.3
    assert np.array_equal(sampling.poisson_weights(identities[7:8], 500)[0], weights[7])


def test_weighted_draws_by_brute_force():
    """Sample after sample, every picture as often as its weight says; both methods of a difference alike."""
    results, draws = [result(seed) for seed in range(12)], 40
    where = places(Fitting.of(results))
    (statistics,) = counted([results], where, draws=draws, exact_up_to=5)
    weights = sampling.poisson_weights([sampling.identity(r["name"]) for r in results], draws)

    def drawn(method, measure):
        entries = [r["methods"][method] for r in results]
        if measure == "boundary_f":
            f = np.array([e["boundary_f"] for e in entries])
            known = np.isfinite(f)
            return np.array([np.average(f[known], weights=w[known]) for w in weights.T])
        each = np.stack(
            [protocols.oracle(Record(np.array(e["table"]), np.zeros((SEGMENTS, 1)))) for e in entries]
        )
        return np.array([metrics.mean_iou(np.tensordot(w, each, 1)) for w in weights.T])

    for measure in ("oracle", "boundary_f"):
        one, other = (drawn(method, measure) for method in METHODS[:2])
        expected = np.percentile(one, (2.5, 97.5))
        np.testing.assert_allclose(statistics.interval(measure, METHODS[0])[1:], expected, atol=1e-8)
        expected = np.percentile(one - other, (2.5, 97.5))
        np.testing.assert_allclose(statistics.interval(measure, *METHODS[:2])[1:], expected, atol=1e-8)


def test_both_bootstraps_say_the_same():
    """From fifty pictures on, Poisson weights move the ends no further than other seeds of drawing pictures do."""
    results = [result(seed) for seed in range(120)]
    where = places(Fitting.of(results), Fitting.of(results))
    drawn, weighted = (counted([results], where, exact_up_to=n)[0] for n in (1000, 100))
    assert drawn.exact and not weighted.exact
    for measure, minus in itertools.product(MEASURES, (None, "the other")):
        value, *ends = drawn.interval(measure, "the one", minus)
        again, *others = weighted.interval(measure, "the one", minus)
        assert again == pytest.approx(value)
        np.testing.assert_allclose(others, ends, atol=0.12 * (ends[1] - ends[0]))


def test_memory_does_not_grow_with_the_pictures():
    """Beyond the bound a picture leaves a few numbers, where its counts alone would be a kilobyte."""
    pictures, seen = [result(seed) for seed in range(4)], []
    statistics, where = Statistics(draws=20, exact_up_to=10), places(Fitting.of(pictures))
    tracemalloc.start()
    for i in range(1024):
        statistics.update(pictures[i % 4] | {"name": f"{i}"}, where)
        if len(statistics) in (512, 1024):
            statistics.interval("oracle", METHODS[0])
            seen.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert not statistics.exact and seen[1] - seen[0] < 150 * 512  # bytes, for three methods


def test_parts_that_do_not_belong_together():
    where = places(Fitting.of([result(0)]))
    one, same = counted([[result(0), result(1)], [result(1)]], where)
    with pytest.raises(ValueError, match="1 of the same pictures"):
        one.merge(same)
    with pytest.raises(ValueError, match="'5' has results of the one, others of the one, the other, a third"):
        one.update(result(5, METHODS[:1]), where)
    with pytest.raises(ValueError, match="methods the one, the other, a third, the other the one"):
        one.merge(counted([[result(7, METHODS[:1])]], where)[0])
    with pytest.raises(ValueError, match="1000 draws, the other 5"):
        one.merge(Statistics(5))


def test_a_mean_is_exact_in_any_order():
    values = np.random.default_rng(0).lognormal(0, 6, 300)
    means = [Mean(), Mean()]
    for value in values:
        means[0].add(value)
    for value in [float("nan"), *values[::-1]]:
        means[1].add(value)
    assert means[0].value == means[1].value == pytest.approx(values.mean(), rel=1e-15)
    assert np.isnan(Mean().value)


# -- clusters of a data set ---------------------------------------------------------------------------------------------


def shown(pictures, size):
    sample = sampling.SegmentSample(size)
    for name, weights, embeddings in pictures:
        sample.update(name, weights, embeddings)
    return sample


def groups(count=60, seed=0, apart=10.0):
    """(name, pixels, embeddings) of pictures whose segments belong to four separate groups, and their groups."""
    rng = np.random.default_rng(seed)
    centres = apart * np.eye(4)
    which = rng.integers(0, 4, (count, 30))
    pictures = [
        (f"{i}", rng.integers(0, 50, 30), centres[row] + rng.normal(0, 0.3, (30, 4)))
        for i, row in enumerate(which)
    ]
    return pictures, which


def test_all_segments_are_clustered_as_ever_where_they_are_few():
    pictures, _ = groups()
    weights, embeddings = (np.concatenate([p[i] for p in pictures]) for i in (1, 2))
    kept = weights > 0
    plain = KMeans(4, n_init=10, random_state=0).fit(embeddings[kept], sample_weight=weights[kept])
    rng = np.random.default_rng(0)
    shuffled = [pictures[i] for i in rng.permutation(len(pictures))]
    for some in (pictures, shuffled):
        assert np.array_equal(shown(some, 50_000).centres(4), plain.cluster_centers_)
    records = [Record(np.array(w)[:, None], e) for _, w, e in pictures]
    found = np.concatenate(protocols.data_set_clusters(records, 4))
    assert np.array_equal(found[kept], plain.labels_)


def test_a_sample_finds_what_all_segments_show():
    pictures, which = groups()
    records = [Record(w[:, None], e) for _, w, e in pictures]
    found = np.concatenate(protocols.data_set_clusters(records, 4, sample=200))
    assert adjusted_rand_score(which.ravel(), found) == 1


def test_a_sample_depends_neither_on_order_nor_on_parts():
    pictures, _ = groups()
    expected = shown(pictures, 200)
    embeddings, weights = expected.vectors()
    assert (
        len(weights) == 200
        and (weights > 0).all()
        and expected.found == sum((p[1] > 0).sum() for p in pictures)
    )
    rng = np.random.default_rng(0)
    for parts in (1, 2, 7):
        merged = sampling.SegmentSample(200)
        for part in np.array_split(rng.permutation(len(pictures)), parts):
            merged.merge(shown([pictures[i] for i in part], 200))
        assert merged.found == expected.found
        for ours, theirs in zip(merged.vectors(), (embeddings, weights), strict=True):
            assert np.array_equal(ours, theirs)


def test_a_sample_is_even():
    """Every segment has the same chance: of 60 pictures with 30 segments each, 600 come from all pictures alike."""
    pictures = [(f"{i}", np.ones(30), np.full((30, 1), i)) for i in range(60)]
    embeddings, _ = shown(pictures, 600).vectors()
    each = np.bincount(embeddings[:, 0].astype(int), minlength=60)
    assert each.sum() == 600 and each.min() > 0 and each.var() == pytest.approx(30 * 1 / 3 * 2 / 3, rel=0.5)


def test_a_sample_keeps_to_its_size():
    rng = np.random.default_rng(0)
    tracemalloc.start()
    sample = shown(((f"{i}", np.ones(30), rng.normal(size=(30, 64))) for i in range(1000)), 500)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.found == 30_000 and size < 5 * 500 * 64 * 8  # all of them would be 60 times 500


@pytest.mark.filterwarnings("error")
def test_too_little_to_make_clusters_of():
    same = [(f"{i}", np.ones(5), np.arange(5.0)[:, None] // 2) for i in range(4)]
    with pytest.raises(ValueError, match="3 distinct embeddings cannot make 4 clusters"):
        shown(same, 100).centres(4)
    with pytest.raises(ValueError, match="20 segments cannot make 21 clusters"):
        shown(same, 100).centres(21)
    with pytest.raises(ValueError, match="Embeddings of 1, 2 numbers"):
        shown([*same, ("more", np.ones(5), np.eye(5, 2))], 100).centres(3)
    with pytest.raises(ValueError, match="'0' came twice"):
        shown([*same, same[0]], 100)
    results = [result(seed) for seed in range(3)]
    for one in results:
        one["methods"]["the one"]["embeddings"] = np.zeros((SEGMENTS, LENGTH)).tolist()
    scores = tables.summarise(results, results, draws=20)["scores"]
    assert scores["traditional mIoU"].isna().tolist() == [True, False, False]
