"""Features and correspondence under a domain shift are measured apart; notebook 09's verdicts follow from intervals."""

import numpy as np
import pandas as pd
import pytest

from emerdiff_lib import Toyscapes
from emerdiff_lib.evaluation.metrics import contingency_table
from emerdiff_lib.evaluation.regions import true_masks
from emerdiff_lib.studies import two_stages
from emerdiff_lib.studies.two_stages import evaluate_scene, position_masks, run_shifts

from .conftest import run_cells, seeded
from .test_ablations import QUICK

NOT_BEYOND = "correspondence, not beyond the filter"
RIGHT, HALF, WRONG = (  # masks that tell two classes apart perfectly, in part, or not at all
    [[4, 0], [0, 4]],
    [[3, 1], [1, 3]],
    [[4, 4], [0, 0]],
)


def scene_result(own=RIGHT, modulated=0.9, bilinear=0.5, guided=0.95):
    edges = {"bilinear": bilinear, "modulated": modulated, "guided": guided}
    tables = dict.fromkeys(("own", "true bilinear", "true modulated", "true guided"), RIGHT)
    return {"own cells": own, "position cells": WRONG, "boundary F": edges} | tables


def cells_of_09(**results):
    """What the cells of notebook 09 make of results, {shift: scene by scene}; the first shift is the reference."""
    shifts = {"as trained" if name == "reference" else name: scenes for name, scenes in results.items()}
    given = {"np": np, "pd": pd, "study": two_stages, "names": list(shifts), "results": shifts}
    texts = ("def share_left", "def what_is_left", "def verdict", "def row_of", "table = pd.DataFrame(")
    return run_cells("09_domain_shift", given, *texts)


def word(scenes, reference):
    return cells_of_09(reference=reference, fog=scenes)["table"].loc["fog", "lost more"]


def test_what_is_left_by_hand():
    perfect, blind, blurred = scene_result(), scene_result(own=WRONG), scene_result(modulated=0.6)
    cells = cells_of_09(reference=[perfect] * 8, blind=[blind] * 8, blurred=[blurred] * 8)
    assert two_stages.gain([perfect], "features")(np.array([0])) == pytest.approx(1 - 0.25)  # (4/8 + 0) / 2
    left = cells["what_is_left"]([blind] * 8, [perfect] * 8)
    whole = {"correspondence": (1, 1, 1), "guided filter": (1, 1, 1), "against the filter": (0, 0, 0)}
    assert left == {"features": (0, 0, 0), "difference": (-1, -1, -1)} | whole
    left = cells["what_is_left"]([blurred] * 8, [perfect] * 8)
    assert left["correspondence"] == pytest.approx((0.25,) * 3)
    assert left["difference"] == pytest.approx((0.75,) * 3)
    assert left["against the filter"] == pytest.approx(
        (-30,) * 3
    )  # points of boundary F: (60 − 95) − (90 − 95)
    table = cells["table"]
    assert table["lost more"].tolist() == ["", "features", "correspondence"]
    assert table.loc["blurred", "correspondence, % left"] == pytest.approx(25)
    assert table.loc["blurred", "boundary F, modulated"] == pytest.approx(60)
    assert table.loc["blind", ["mIoU", "cells, own", "cells, position"]].tolist() == [100, 25, 25]


@pytest.mark.parametrize(
    ("scene", "reference", "expected"),
    [
        (scene_result(), scene_result(), "neither"),
        (scene_result(), scene_result(own=HALF), "neither"),  # features gain
        (scene_result(own=WRONG, modulated=0.5), scene_result(), "both"),
        (scene_result(modulated=0.6), scene_result(), "correspondence"),
        (scene_result(modulated=0.6, guided=0.55), scene_result(), NOT_BEYOND),  # which lost as much
        # a share of 0.75 against one of 0.78, and yet as many points
        (scene_result(modulated=0.8, guided=0.85), scene_result(), NOT_BEYOND),
        (scene_result(), scene_result(own=WRONG, modulated=0.5), "nothing to lose"),
    ],
)
def test_verdicts_on_made_up_results(scene, reference, expected):
    assert word([scene] * 8, [reference] * 8) == expected


def test_what_is_uncertain_is_inconclusive():
    assert word([scene_result()], [scene_result()]) == "inconclusive"  # one scene has no interval
    # scenes that differ widely: about 66 and 56 % are left, with intervals that reach 100 %
    reference = [scene_result(modulated=0.5 + gained) for gained in (0.4, 0.02, 0.02, 0.02) * 2]
    scenes = [scene_result(modulated=0.5 + gained) for gained in (0.2, 0.03, 0.03, 0.02) * 2]
    scenes = [s | {"own cells": own} for s, own in zip(scenes, (WRONG, RIGHT, RIGHT, RIGHT) * 2, strict=True)]
    row = cells_of_09(reference=reference, fog=scenes)["table"].loc["fog"]
    for stage in ("features", "correspondence"):
        assert row[f"{stage}, % left"] < 90 and row[f"{stage}, % high"] >= 100
    assert row["lost more"] == "inconclusive"


def test_masks_of_positions_are_compact_and_see_nothing():
    masks = position_masks((8, 8), 4, seed=0)
    assert masks.sum(0).eq(1).all() and (masks.sum((1, 2)) >= 12).all()
    y, x = np.mgrid[:8, :8]
    for mask in masks.numpy():
        assert y[mask].std() + x[mask].std() < 3


def test_the_stages_are_measured_apart(pipe):
    """Pixels from the true masks are what the pipeline makes of them when they are given to it."""
    scene = Toyscapes("test", shift="unseen objects")[3]
    result = evaluate_scene(pipe, scene, QUICK)
    own = pipe(scene.image, generator=seeded(3), **QUICK)
    masks = true_masks(scene.coarse_labels, (16, 16), 11)
    given = pipe(scene.image, generator=seeded(3), coarse_masks=masks, **QUICK)
    count = lambda labels, k: contingency_table(labels, scene.coarse_labels, k, 11).tolist()
    assert result["own"] == count(own.labels, 3)
    assert result["true modulated"] == count(given.labels, len(masks))
    assert result["true bilinear"] == count(given.baseline_labels, len(masks))
    assert np.sum(result["own cells"]) == np.sum(result["position cells"]) == 16 * 16


def test_shifts_are_told_apart(pipe, tmp_path):
    names = ["as trained", "unseen objects"]
    for name, (result,) in run_shifts(pipe, names, [3], tmp_path, QUICK | {"denoising_steps": 1}).items():
        truth = Toyscapes.from_seed(3, name).coarse_labels
        assert np.array_equal(np.sum(result["own"], 0), np.bincount(truth.ravel(), minlength=11))
    with pytest.raises(ValueError, match="num_mask"):
        run_shifts(pipe, names, [3], tmp_path, {"num_mask": 4})
    with pytest.raises(ValueError, match="shift='fog' is unknown"):
        run_shifts(pipe, ["fog"], [3], tmp_path, QUICK)
