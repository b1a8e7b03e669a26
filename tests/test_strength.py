"""λ by picture: kinds of picture are what they are called, rules choose what they say."""

import numpy as np
import pandas as pd
import pytest

from emerdiff_lib import Toyscapes
from emerdiff_lib.evaluation import ablations, strength

QUICK = {"num_masks": 3, "modulation_timestep": 21, "feature_timestep": 21, "noise_ensemble_size": 1}


def test_kinds_of_picture():
    kinds = [strength.kind_of_picture(Toyscapes("test")[seed]) for seed in range(12)]
    for seed, kind in enumerate(kinds):
        assert Toyscapes("test")[seed].caption.endswith(kind["time of day"]) and 0 <= kind["object size"] < 1
    blurred = strength.kind_of_picture(Toyscapes("test", shift="blur, 3 px")[3])
    assert blurred["texture contrast"] < 0.5 * kinds[3]["texture contrast"]


def test_rules_by_hand():
    rows = [
        {"seed": s, "λ": v, "mIoU": m, "boundary F": 1.0, "layer RMS": r, "response": v, "margin": -v, "agreement": 0.0,
         "edge contrast": m}
        for s, r, scores in ((0, 1.0, (5, 9, 1)), (1, 1.0, (8, 2, 1)), (2, 10.0, (1, 2, 6)))
        for v, m in zip((1.0, 10.0, 100.0), scores, strict=True)
    ]  # fmt: skip
    rules = strength.rules(pd.DataFrame(rows))
    expected = {"λ = 1": 14, "λ = 10": 13, "λ = 100": 8, "relative norm": 9 + 2 + 6, "best in hindsight": 23,
                "largest edge contrast": 23, "largest response": 8, "largest margin": 14}  # fmt: skip
    for name, total in expected.items():
        assert rules.loc[name, "mIoU"] == pytest.approx(total / 3), name
    assert rules.loc["best in hindsight", "median λ"] == 10


def test_from_results_to_pictures_and_paired_differences(pipe):
    scene = Toyscapes("test")[3]
    strengths = {v: [ablations.evaluate_setting(pipe, scene, QUICK | {"modulation_strength": v})] for v in (1.0, 100.0)}
    pictures = strength.by_picture(strengths, [3])
    assert len(pictures) == 2 and pictures["response"].is_monotonic_increasing and (pictures["layer RMS"] > 0).all()
    for hint in strength.HINTS:
        assert np.isfinite(pictures[hint]).all()
    assert pictures["margin"].between(0, 1).all() and pictures["agreement"].between(0, 1).all()
    for measure, column in (("oracle mIoU", "mIoU"), ("boundary F", "boundary F")):
        value, low, high = ablations.paired(strengths[1.0], strengths[100.0], measure, 20)
        assert value == low == high == pytest.approx(-np.diff(pictures[column])[0])
    with pytest.raises(ValueError, match="'boundary F'"):
        ablations.paired(strengths[1.0], strengths[1.0], "colour")
