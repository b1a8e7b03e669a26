"""How many masks: groups are unions of masks, and the tables follow from the scores of single pictures."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from emerdiff_lib.clustering import RULES, choose_num_masks, cluster_queries
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.datasets.images import named
from emerdiff_lib.studies import num_masks as study

from .conftest import seeded

QUICK = {"modulation_timestep": 41, "noise_ensemble_size": 1}
CANDIDATES = [2, 4, 6]


@pytest.fixture(scope="module")
def sample():
    return open_dataset("toyscapes", split="test")[7]


@pytest.fixture(scope="module")
def segmented(pipe, sample):
    return study.segment(pipe, sample, CANDIDATES, 4, **QUICK)


def test_every_candidate_is_what_the_pipeline_makes_of_the_same_masks(pipe, sample, segmented):
    labels, picks = segmented
    coarse = pipe.cluster(sample.image, 4, generator=seeded(sample.seed), **QUICK)
    for k in CANDIDATES:
        masks = cluster_queries(coarse.queries, k, sample.seed)
        output = pipe(sample.image, trajectory=coarse.trajectory, coarse_masks=masks, **QUICK)
        assert np.array_equal(labels[study.DIRECT][k], output.labels)
    assert picks == {rule: choose_num_masks(coarse.queries, CANDIDATES, rule)[0] for rule in RULES}


def test_groups_are_unions_of_masks(segmented):
    labels, _ = segmented
    many = labels[study.DIRECT][4]
    for way in (study.ANYWHERE, study.TOUCHING):
        assert set(labels[way]) == {2, 4}
        pairs = lambda one: len(set(zip(many.ravel(), one.ravel(), strict=True)))
        assert pairs(labels[way][4]) == len(np.unique(many)) == len(np.unique(labels[way][4]))
        assert len(np.unique(labels[way][2])) == 2 and pairs(labels[way][2]) == len(np.unique(many))


def results(agreements: dict[str, dict[int, list[float]]], picks: dict[str, list[int]]) -> list[dict]:
    """As :func:`study.study` returns them, from {way: {K: ARI per picture}} and {rule: K per picture}."""
    count = len(next(iter(picks.values())))
    return [
        {
            "name": f"{i:03}",
            "picks": {rule: ks[i] for rule, ks in picks.items()},
            "scores": [
                {
                    "way": way,
                    "K": k,
                    "adjusted_rand": values[i],
                    "boundary_f": values[i] / 2,
                    "counts": [[k, k + 1, k + 1], [k, k + 1, k + 1]],
                }
                for way, by_number in agreements.items()
                for k, values in by_number.items()
            ],
        }
        for i in range(count)
    ]


DIRECT = {2: [0.2, 0.6], 4: [0.5, 0.5], 6: [0.4, 0.3]}
GROUPED = {2: [0.3, 0.5], 4: [0.6, 0.6]}
PICKS = {"silhouette": [2, 2], "eigengap": [4, 2], "bic": [6, 6]}
FOUND = results({study.DIRECT: DIRECT, study.ANYWHERE: GROUPED, study.TOUCHING: GROUPED}, PICKS)
FIT = results(
    {study.DIRECT: {2: [0.1], 4: [0.2], 6: [0.9]}, study.ANYWHERE: {2: [0.9], 4: [0.1]}},
    {"silhouette": [2], "eigengap": [2], "bic": [2]},
)


def test_the_fixed_number_comes_from_other_pictures():
    assert study.best_fixed(FOUND) == 4 and study.best_fixed(FIT) == 6
    table = study.choices(FOUND, FIT)
    assert table.loc["always 6", "ARI"] == pytest.approx(35) and table.loc["always 6", "minus fixed"] == 0
    assert table.loc["silhouette", "ARI"] == pytest.approx(40)
    assert table.loc["silhouette", "minus fixed"] == pytest.approx(5)
    assert table.loc["eigengap", ["ARI", "boundary F", "median K"]].tolist() == pytest.approx([55, 27.5, 3])
    assert table.loc[study.HINDSIGHT, "ARI"] == pytest.approx(55)
    assert (table["low"] <= table["minus fixed"] + 1e-9).all() and (
        table["minus fixed"] <= table["high"] + 1e-9
    ).all()


def test_rules_that_pick_more_groups_than_there_are_masks_get_all_of_them():
    table = study.choices(FOUND, FIT, study.ANYWHERE)
    assert table.loc["bic", "median K"] == 4 and table.loc["bic", "ARI"] == pytest.approx(60)


def test_curves_and_differences_by_hand():
    curves = study.curves(FOUND).set_index(["way", "K"])
    assert curves.loc[(study.DIRECT, 2), "ARI"] == pytest.approx(40)
    assert curves.loc[(study.DIRECT, 4), "oracle mIoU"] == pytest.approx(100 * 4 / 6)
    difference = study.grouped_minus_direct(FOUND)
    assert list(difference.index) == [2, 4]
    assert difference["difference"].tolist() == pytest.approx([0, 10])

    assert study.grouped_minus_direct(FOUND, study.ANYWHERE, 4, 2)["difference"].tolist() == pytest.approx(
        [20]
    )


def test_candidates_hold_the_number_that_is_grouped(pipe):
    settings = pipe.resolve(num_masks=4)
    assert study.check_candidates([6, 2, 6], settings) == [2, 4, 6]
    for candidates, said in (([1, 4], "candidate=1"), ([4], "leave no choice"), ([2.5, 4], "2.5")):
        with pytest.raises(ValueError, match=said):
            study.check_candidates(candidates, settings)
    with pytest.raises(ValueError, match="leave num_parts out"):
        study.check_candidates([2, 4], pipe.resolve(mode="pixel"))


def test_many_images_are_scored_as_one_is(pipe, sample, segmented, tmp_path):
    data = open_dataset("toyscapes", split="test")
    (result,) = study.score_images(pipe, data, named(data, [7]), CANDIDATES, 4, tmp_path, QUICK)
    labels, picks = segmented
    assert result["picks"] == picks and len(result["scores"]) == 7
    for score in result["scores"]:
        expected = adjusted_rand_score(sample.labels.ravel(), labels[score["way"]][score["K"]].ravel())
        assert score["adjusted_rand"] == pytest.approx(expected)
