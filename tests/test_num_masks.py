"""How many masks: groups are unions of masks, and the tables follow from the scores of single pictures."""

import ast
from pathlib import Path

import numpy as np
import papermill
import pytest

from emerdiff_lib.clustering import RULES, choose_num_masks, cluster_queries
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.experiments import num_masks as study

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
    coarse = pipe.coarse(sample.image, 4, generator=seeded(sample.seed), **QUICK)
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
                    "counts": [[k, k + 1, k + 1]] * 2,
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
    assert curves.loc[(study.DIRECT, 4), "oracle mIoU"] == pytest.approx(100 * 8 / 12)
    difference = study.grouped_minus_direct(FOUND)
    assert list(difference.index) == [2, 4]
    assert difference["difference"].tolist() == pytest.approx([0, 10])


def test_candidates_hold_the_number_that_is_grouped():
    assert study.check_candidates([6, 2, 6], 4) == [2, 4, 6]
    for candidates, said in (([1, 4], "candidate=1"), ([4], "leave no choice"), ([2.5, 4], "2.5")):
        with pytest.raises(ValueError, match=said):
            study.check_candidates(candidates, 4)


def test_sentences_follow_from_the_numbers():
    alike = lambda values: {k: [v] * 8 for k, v in values.items()}
    picks = {"silhouette": [2] * 8, "eigengap": [4] * 8, "bic": [6] * 8}
    many = results(
        {
            study.DIRECT: alike({2: 0.7, 4: 0.5, 6: 0.2}),
            study.ANYWHERE: alike({2: 0.4, 4: 0.6}),
            study.TOUCHING: alike({2: 0.4, 4: 0.5}),
        },
        picks,
    )
    other = results(
        {study.DIRECT: {2: [0.1], 4: [0.9], 6: [0.2]}} | {w: {2: [0.1], 4: [0.9]} for w in study.WAYS[1:]},
        {"silhouette": [2], "eigengap": [2], "bic": [2]},
    )
    said = "\n".join(study.describe(many, other, 4))
    assert (
        "chosen on 1 other picture: 4, which reaches an ARI of 50.0 on these 8" in said
        and "reach 20.0 more" in said
    )
    assert "silhouette (median K = 2) reaches 70.0: by +20.0 [+20.0, +20.0] better than always 4." in said
    assert "bic (median K = 6) reaches 20.0: by -30.0 [-30.0, -30.0] worse than always 4." in said
    assert "eigengap (median K = 4) reaches 50.0: by +0.0 [+0.0, +0.0] not told apart from always 4." in said
    assert "So silhouette chooses K measurably better" in said
    assert "4 masks grouped anywhere, 4 groups: by +10.0 [+10.0, +10.0] better than k-means with 4" in said


def test_a_study_goes_on_where_it_stopped(pipe, tmp_path, monkeypatch):
    data, calls, original = open_dataset("toyscapes", split="test"), [], study.segment

    def counted(pipe, sample, *args, **kwargs):
        calls.append(sample.name)
        return original(pipe, sample, *args, **kwargs)

    monkeypatch.setattr(study, "segment", counted)
    run = lambda positions, candidates=(2, 3): study.study(
        pipe, data, positions, list(candidates), 3, tmp_path, QUICK
    )
    run([1])
    first, again = run([0, 1]), run([0, 1])
    assert calls == ["000001", "000000"] and list(first) == list(again)
    assert [r["name"] for r in again] == ["000000", "000001"] and len(study.score_rows(again)) == 2 * 6
    assert run([0], (2, 3, 4)).report.states == {"recomputed": 1} and calls[2:] == ["000000"]


def test_the_command_and_the_notebook_save_the_same():
    notebook = papermill.inspect_notebook(Path(__file__).parents[1] / "notebooks" / "14_how_many_masks.ipynb")
    assert ast.literal_eval(notebook["settings"]["default"]) == study.SHORTCUTS
