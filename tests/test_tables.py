"""Tables of an evaluation from label maps alone: each number against another library or the sentence that describes it."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, jaccard_score

from emerdiff_lib.evaluation import metrics, protocols, tables
from emerdiff_lib.evaluation.regions import sample_labels

METHODS = ["the one", "the other"]
CLASSES, VOID = 4, 255


def image(seed):
    """(truth, {method: segments of six}): blocks of classes; the first method is nearer to them than the second."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, (8, 8)).repeat(6, 0).repeat(6, 1)
    wrong = lambda share: np.where(rng.random(truth.shape) < share, rng.integers(0, 6, truth.shape), truth)
    segments = dict(zip(METHODS, (wrong(0.1), wrong(0.4)), strict=True))
    truth[:9, 10:20] = VOID
    return truth, segments


def scored(seeds, length=2, unknown=False):
    results = []
    for seed in seeds:
        truth, segments = image(seed)
        if unknown:
            truth[:] = VOID
        embeddings = np.arange(6.0)[:, None] + np.resize([0.0, seed / 100], length)
        about = truth, embeddings, 1.5, CLASSES, VOID
        methods = {name: tables.score(labels, *about) for name, labels in segments.items()}
        results.append({"name": f"{seed}", "methods": methods})
    return results


RESULTS = scored(range(8, 16))
FIT = scored(range(50, 54))


def test_an_image_is_scored_at_the_size_of_its_truth():
    truth, segments = image(3)
    small = segments["the one"].astype(np.int32)[1::2, ::2]
    whole = tables.score(sample_labels(small, truth.shape), truth, np.eye(6), 2.0, CLASSES, VOID)
    assert tables.score(small, truth, np.eye(6), 2.0, CLASSES, VOID) == whole
    assert np.sum(whole["table"]) == (truth != VOID).sum() and json.loads(json.dumps(whole)) == whole


def test_scores_follow_from_the_pixels_of_all_images():
    scores = tables.summarise(RESULTS, FIT, draws=20)["scores"]
    assert list(scores.index) == METHODS and list(scores) == list(tables.TABLE.values())
    for method in METHODS:
        true, predicted, edges, rand, matched, rims = [], [], [], [], 0, 0
        for seed in range(8, 16):
            truth, segments = image(seed)
            known, segments = truth != VOID, segments[method]
            classes = np.array([np.bincount(truth[known & (segments == k)]).argmax() for k in range(6)])
            true.append(truth[known])
            predicted.append(classes[segments][known])
            edges.append(metrics.boundary_scores(segments, truth, 2, VOID))
            rand.append(adjusted_rand_score(truth[known], segments[known]))
            matched = matched + protocols.per_image_matching(segments, truth, CLASSES, VOID)
            rims = rims + metrics.boundary_iou(classes[segments], truth, CLASSES, VOID)
        true, predicted = np.concatenate(true), np.concatenate(predicted)
        row, (right, occurs, segment) = scores.loc[method], matched.T
        assert row["oracle mIoU"] == pytest.approx(100 * jaccard_score(true, predicted, average="macro"))
        assert row["oracle accuracy"] == pytest.approx(100 * (true == predicted).mean())
        expected = 100 * np.mean(edges, 0)
        assert row[["precision", "recall", "boundary F"]].to_numpy() == pytest.approx(expected)
        assert row["ARI"] == pytest.approx(100 * np.mean(rand)) and row["s / image"] == 1.5
        expected = 100 * np.mean(right / (occurs + segment - right))
        assert row["per-image matched mIoU"] == pytest.approx(expected)
        assert row["boundary IoU"] == pytest.approx(100 * np.mean(rims[:, 0] / rims[:, 1]))
        assert row["modified mIoU (same images)"] <= row["oracle mIoU"] + 1e-9
    frames = tables.summarise(RESULTS[::-1], FIT[::-1], draws=20)
    for name, frame in tables.summarise(RESULTS, FIT, draws=20).items():  # in whatever order images come
        pd.testing.assert_frame_equal(frame, frames[name], rtol=1e-12)


def test_protocols_are_fitted_on_the_images_that_they_name():
    scores = tables.summarise(RESULTS, FIT, draws=20)["scores"]
    for method in METHODS:
        part = lambda result, name, method=method: np.array(result["methods"][method][name])
        record = lambda result, part=part: protocols.Record(part(result, "table"), part(result, "embeddings"))
        own, other = (list(map(record, some)) for some in (RESULTS, FIT))
        same, concepts = protocols.concept_embeddings(own), protocols.concept_embeddings(other)
        expected = {
            "traditional": protocols.traditional(own).sum(0),
            "modified_self": sum(protocols.modified(one, same) for one in own),
            "modified": sum(protocols.modified(one, concepts) for one in own),
            "modified_cosine": sum(protocols.modified(one, concepts, cosine=True) for one in own),
        }
        for name, counts in expected.items():
            assert scores.loc[method, tables.TABLE[name]] == pytest.approx(100 * metrics.mean_iou(counts))


def test_differences_are_paired_and_the_reference_is_the_first_method():
    frames = tables.summarise(RESULTS, FIT, draws=50)
    scores, paired = frames["scores"], frames["paired"]
    assert set(paired["minus"]) == {"the other"}
    assert list(paired.measure) == ["oracle", "modified", "boundary_f"]
    for row in paired.to_dict("records"):
        values = scores[tables.TABLE[row["measure"]]]
        assert row["points"] == pytest.approx(values["the one"] - values["the other"])
        assert row["low"] <= row["points"] <= row["high"]
    levels = frames["intervals"].set_index(["method", "measure"])
    kept = scores.attrs["intervals"]
    ends = levels.loc[("the other", "boundary_f"), ["low", "high"]]
    assert kept["boundary F"]["the other"] == ends.tolist()
    assert len(kept) == 3 and not tables.summarise(RESULTS[:7], FIT, draws=20)["scores"].attrs["intervals"]
    with pytest.raises(ValueError, match="no results"):
        tables.summarise([], FIT)


def test_what_cannot_be_had_is_left_out():
    """Prototypes of the same images must not stand under "other split"; lengths that differ have no prototypes."""
    frames = tables.summarise(RESULTS, [], draws=20)
    named = lambda scores: {name for name, title in tables.TABLE.items() if title in scores}
    assert set(tables.TABLE) - named(frames["scores"]) == {"modified", "modified_cosine"}
    assert set(frames["intervals"].measure) == set(frames["paired"].measure) == {"oracle", "boundary_f"}
    scores = tables.summarise(RESULTS + scored([90], length=3), FIT, draws=20)["scores"]
    fitted = {"traditional", "modified_self", "modified", "modified_cosine"}
    assert set(tables.TABLE) - named(scores) == fitted


def test_objects_are_averaged_by_size_from_small_to_large():
    table = tables.summarise(RESULTS, FIT, draws=20)["objects"]
    rows = [o for r in RESULTS for o in r["methods"]["the other"]["objects"]]
    small = [100 * o["recall"] for o in rows if 0.01 <= o["area"] < 0.05]
    assert table.loc["the other", ("recall", "1–5 %")] == pytest.approx(np.mean(small))
    assert list(table) == [(kind, area) for kind in ("recall", "IoU") for area in metrics.AREA_NAMES[:3]]


@pytest.mark.filterwarnings("error")
def test_an_image_without_known_pixels_is_left_out_of_every_mean():
    blank = scored([7], unknown=True)
    more, kept = (tables.summarise(some, FIT, draws=50) for some in (RESULTS + blank, RESULTS))
    same = [column for column in kept["scores"] if column not in ("segments", "s / image")]
    pd.testing.assert_frame_equal(more["scores"][same], kept["scores"][same])
    assert not more["intervals"].isna().any().any() and not more["paired"].isna().any().any()
    alone = tables.summarise(blank, FIT, draws=50)
    assert alone["scores"].drop(columns=["segments", "s / image"]).isna().all().all()
