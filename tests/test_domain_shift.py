"""The world under a domain shift keeps exact labels; features and correspondence are told apart."""

import numpy as np
import pytest

from emerdiff_lib import Toyscapes
from emerdiff_lib.evaluation.metrics import contingency_table
from emerdiff_lib.experiments import domain_shift, shift_tables
from emerdiff_lib.toyscapes.shifts import SHIFTS

from .conftest import seeded
from .test_ablations import QUICK


def test_unknown_shifts_are_named():
    with pytest.raises(ValueError, match="did you mean 'blur, 1 px'.*'line drawing'"):
        domain_shift.choose(["blur 1 px"])
    assert domain_shift.choose(["red light"]) == ["as trained", "red light"]
    assert domain_shift.choose([]) == list(SHIFTS)
    with pytest.raises(ValueError, match="'features', 'correspondence'"):
        shift_tables.gain([], "colour")


def test_true_masks_are_the_majority_of_their_cells():
    labels = np.repeat(np.repeat([[0, 2], [2, 7]], 4, 0), 4, 1)
    labels[0, 0] = 7
    masks = domain_shift.true_masks(labels, (2, 2), 8)
    assert masks.astype(int).tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]]


RIGHT, WRONG = (
    [[4, 0], [0, 4]],
    [[4, 4], [0, 0]],
)  # masks that tell two classes apart perfectly, or not at all


def scene_result(own=RIGHT, modulated=0.9, bilinear=0.5, guided=0.95):
    edges = {"bilinear": bilinear, "modulated": modulated, "guided": guided}
    tables = dict.fromkeys(("own", "true bilinear", "true modulated", "true guided"), RIGHT)
    return {"own cells": own, "position cells": WRONG, "boundary F": edges} | tables


def test_retention_by_hand():
    perfect, blind, blurred = scene_result(), scene_result(own=WRONG), scene_result(modulated=0.6)
    assert shift_tables.gain([perfect], "features") == pytest.approx(
        1 - 0.25
    )  # (4/8 + 0) / 2 for the one segment
    retention = lambda results, measure: shift_tables.retention([results] * 3, [perfect] * 3, measure, 20)
    assert retention(blind, "features") == (0, 0, 0)
    assert retention(blind, "correspondence") == (1, 1, 1)
    assert retention(blurred, "correspondence") == pytest.approx((0.25,) * 3)
    assert shift_tables.surplus([blurred] * 3, [perfect] * 3, 20) == pytest.approx((0.75,) * 3)
    assert shift_tables.surplus([blind] * 3, [perfect] * 3, 20) == (-1, -1, -1)


def word(results, reference):
    return shift_tables.verdict(results, reference, 200).word


def test_every_verdict_on_made_up_results():
    perfect, blind, blurred = scene_result(), scene_result(own=WRONG), scene_result(modulated=0.6)
    reference = [perfect] * 8
    assert word([blind] * 8, reference) == "features"
    assert word([blurred] * 8, reference) == "correspondence"
    assert word(reference, reference) == "neither"
    assert word([scene_result(modulated=0.91)] * 8, reference) == "neither"  # more than before is no loss
    assert word([scene_result(own=WRONG, modulated=0.5)] * 8, reference) == "both"
    nothing = [scene_result(own=WRONG, modulated=0.5)] * 8
    assert word(reference, nothing) == "nothing to lose"
    found = {"as trained": nothing, "fog": reference}
    sentences = shift_tables.report(found, shift_tables.verdicts(found, 50))
    assert sentences == ["fog: the reference itself gains nothing measurable."]
    assert word([perfect], [perfect]) == "cannot be told"  # one scene has no interval


def test_a_large_loss_that_is_uncertain_is_not_no_loss():
    """Scenes that differ widely: about 66 and 56 % are left, with intervals that reach 100 %."""
    reference = [scene_result(modulated=0.5 + gained) for gained in (0.4, 0.02, 0.02, 0.02)]
    results = [scene_result(modulated=0.5 + gained) for gained in (0.2, 0.03, 0.03, 0.02)]
    results = [r | {"own cells": own} for r, own in zip(results, (WRONG, RIGHT, RIGHT, RIGHT), strict=True)]
    found = shift_tables.verdict(results, reference, 500)
    for value, _, high in found.left.values():
        assert value < 0.9 and high >= 1
    assert found.word == "cannot be told" and str(found) == "it cannot be told"


def test_a_measurable_surplus_over_a_stage_that_lost_nothing_is_no_break():
    """The features gain under a shift; the correspondence keeps what it had."""
    half = [[3, 1], [1, 3]]
    reference, results = [scene_result(own=half)] * 6, [scene_result()] * 6
    found = shift_tables.verdict(results, reference, 50)
    assert found.surplus[1] > 0 and found.word == "neither"


def test_words_and_tables_follow_from_the_numbers():
    found = {
        "as trained": [scene_result()] * 4,
        "red light": [scene_result(modulated=0.6)] * 4,
        "blur, 3 px": [scene_result(modulated=0.7, guided=0.6)] * 4,
        "noise, 5 %": [scene_result()] * 4,
    }
    told = shift_tables.verdicts(found, 20)
    table = shift_tables.overview(found, told)
    assert table["breaks first"].tolist() == ["", "correspondence", "correspondence", "neither"]
    assert table.loc["red light", "correspondence, % left"] == pytest.approx(25)
    assert table.loc["red light", "boundary F, modulated"] == pytest.approx(60)
    left = shift_tables.what_is_left(told)
    assert left["shift"].tolist() == [name for name in list(found)[1:] for _ in range(2)]
    assert left.loc[1].tolist() == ["red light", "correspondence", *[pytest.approx(25)] * 3]
    assert list(shift_tables.what_is_left({})) == list(left)
    words = shift_tables.report(found, told)
    assert words[0].startswith("red light: 100 % [100, 100] of the features and 25 % [25, 25] of the corresp")
    assert words[0].endswith("the correspondence breaks first.") and "noise, 5 %" in words[2]
    red, blur = words[3:]
    assert (
        "changes by -30.0 points and a guided filter's by +0.0, so the boundaries are in the picture" in red
    )
    assert "lost in the picture as well; the model is 10.0 points ahead" in blur


def test_headlines_group_shifts_by_their_verdicts():
    half = [[3, 1], [1, 3]]
    found = {
        "as trained": [scene_result(own=half)] * 4,
        "red light": [scene_result(own=half, modulated=0.6) | {"true modulated": WRONG}] * 4,
        "blur, 1 px": [scene_result()] * 4,
        "line drawing": [scene_result(own=WRONG, modulated=0.5)] * 4,
    }
    assert shift_tables.headlines(found, shift_tables.verdicts(found, 20)) == [
        "The correspondence breaks first under red light.",
        "Both break, and which first cannot be told, under line drawing.",
        "Neither breaks, measurably, under blur, 1 px.",
        "The features are measurably better than in the model's own world under blur, 1 px.",
        "In mIoU, modulation from true masks does worse than bilinear upsampling under red light.",
    ]


def test_iou_of_the_unseen_by_hand():
    """Of 4 pixels of the last class 3 are in a mask of it, with 1 of another: 3 / 5."""
    result = scene_result() | {"own": [[5, 1], [1, 3]]}
    assert shift_tables.unseen_iou([result]) == {
        "own masks": pytest.approx(60),
        "true masks": 100,
        "true masks, bilinear": 100,
    }


def test_the_stages_are_measured_apart(pipe):
    """Pixels from the true masks are what the pipeline makes of them when they are given to it."""
    scene = Toyscapes("test", shift="unseen objects")[3]
    result = domain_shift.evaluate_scene(pipe, scene, QUICK)
    own = pipe(scene.image, generator=seeded(3), **QUICK)
    masks = domain_shift.true_masks(scene.coarse_labels, (16, 16), 11)
    given = pipe(scene.image, generator=seeded(3), coarse_masks=masks, **QUICK)
    count = lambda labels, k: contingency_table(labels, scene.coarse_labels, k, 11).tolist()
    assert result["own"] == count(own.labels, 3)
    assert result["true modulated"] == count(given.labels, len(masks))
    assert result["true bilinear"] == count(given.baseline_labels, len(masks))
    assert np.sum(result["own cells"]) == np.sum(result["position cells"]) == 16 * 16


def test_a_run_goes_on(pipe, tmp_path, monkeypatch):
    calls, evaluate = [], domain_shift.evaluate_scene
    monkeypatch.setattr(
        domain_shift,
        "evaluate_scene",
        lambda pipe, scene, settings: calls.append(scene.seed) or evaluate(pipe, scene, settings),
    )
    names = ["as trained", "unseen objects"]
    found = domain_shift.run(pipe, names, [3], tmp_path, QUICK)
    assert calls == [3, 3]
    assert domain_shift.run(pipe, names, [3], tmp_path, QUICK) == found and len(calls) == 2
    for results, shift in ((found[name], name) for name in names):
        for result, seed in zip(results, [3], strict=True):
            truth = Toyscapes("test", shift=shift)[seed].coarse_labels
            for kind in ("own", "true bilinear", "true modulated", "true guided"):
                assert np.array_equal(np.sum(result[kind], 0), np.bincount(truth.ravel(), minlength=11))
    domain_shift.run(pipe, names, [3], tmp_path, QUICK | {"num_masks": 4})  # has results of its own
    assert len(calls) == 4 and domain_shift.run(pipe, names, [3], tmp_path, QUICK) == found
    with pytest.raises(ValueError, match="did you mean 'num_masks'"):
        domain_shift.run(pipe, names, [3], tmp_path, {"num_mask": 4})
