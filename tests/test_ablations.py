"""Sweeps: resumable, sharing what they have in common, and answering for what they changed."""

import pytest

from emerdiff_lib import Toyscapes
from emerdiff_lib.evaluation import ablations
from emerdiff_lib.evaluation.ablations import CAPTION, Sweep

QUICK = {"num_masks": 3, "modulation_timestep": 21, "feature_timestep": 21, "noise_ensemble_size": 1}


def test_every_setting_of_the_paper_is_swept(pipe):
    chosen = ablations.sweeps(pipe)
    assert {sweep.source for sweep in chosen.values()} >= {f"Table {n}" for n in range(4, 10)} | {"Fig. 14"}
    assert len(chosen["placement"].points) == 2 * 2 * 3 and len(chosen["layer"].points) == 4
    assert "12" in chosen["num_masks"].points and "10.0" in chosen["modulation_strength"].points


def test_sweeps_share_results_and_go_on(pipe, tmp_path, monkeypatch):
    calls, evaluate = [], ablations.evaluate_setting

    def counted(pipe, scene, settings, masks=None):
        calls.append((scene.seed, settings, masks is not None))
        return evaluate(pipe, scene, QUICK | settings, masks)

    monkeypatch.setattr(ablations, "evaluate_setting", counted)
    chosen = {
        "strength": Sweep(
            "λ", "", {"10": {"modulation_strength": 10.0}, "1": {"modulation_strength": 1.0}}, same_masks=True
        ),
        "injection": Sweep("", "", {"with": {}, "without": {"attention_injection": False}}, same_masks=True),
        "masks": Sweep("", "", {"4": {"num_masks": 4}}),
    }
    found = ablations.run(pipe, chosen, range(2), tmp_path)
    assert len(calls) == 2 * 4 and calls[0] == (0, {}, False) and (1, {"modulation_strength": 1.0}, True) in calls
    again = ablations.run(pipe, chosen, range(2), tmp_path)
    assert len(calls) == 2 * 4 and again == found
    assert found["strength"]["10"] == found["injection"]["with"]
    strong, weak = (found["strength"][label][0] for label in ("10", "1"))
    assert strong["coarse_masks"] == weak["coarse_masks"] and strong["bilinear"] == weak["bilinear"]
    assert strong["EmerDiff"] != weak["EmerDiff"] and strong["layer_rms"] > 0
    table = ablations.table(found["masks"], draws=20)
    assert set(table["measure"]) == {"oracle mIoU", "modified mIoU", "boundary F"} and (table.low <= table.high).all()


@pytest.mark.parametrize("settings", [{"features": "smoothed"}, {"features": "with positions"}, {"prompt": CAPTION}])
def test_what_the_pipeline_does_not_know_is_handled(pipe, settings):
    scene = Toyscapes("test")[3]
    plain = ablations.evaluate_setting(pipe, scene, QUICK)
    changed = ablations.evaluate_setting(pipe, scene, QUICK | settings)
    assert len(changed["coarse_masks"]) == 3 and changed["coarse_masks"] != plain["coarse_masks"]


def test_unknown_sweeps_are_named():
    with pytest.raises(ValueError, match="'num_masks'"):
        ablations.main(["--sweeps", "colour"])
