"""``python -m emerdiff_lib.experiments.yardsticks``: goes on where it stopped, and refuses to mix results."""

import json
import re

import numpy as np
import pytest

from emerdiff_lib import Toyscapes
from emerdiff_lib.evaluation.metrics import boundary_scores, contingency_table
from emerdiff_lib.experiments import yardsticks
from emerdiff_lib.experiments.manifest import read_manifest
from emerdiff_lib.experiments.names import BILINEAR, CEILING, EMERDIFF, POSITION

from .conftest import seeded

QUICK = {"modulation_timestep": 21, "noise_ensemble_size": 1}
OPTIONS = ["--num-scenes", "3", "--fit-scenes", "1", "--num-masks", "4", "--settings", json.dumps(QUICK)]


def test_interrupted_runs_go_on_and_end_alike(tmp_path, monkeypatch, capsys):
    calls, evaluate = [], yardsticks.evaluate_scene

    def interrupted(pipe, scene, settings):
        calls.append(scene.seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(pipe, scene, settings)

    monkeypatch.setattr(yardsticks, "evaluate_scene", interrupted)
    run = lambda *more: yardsticks.main([*OPTIONS, "--output", str(tmp_path), *more])
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run("--shard", "1/2") is None and "without --shard" in capsys.readouterr().out
    summary = run()
    assert calls == [0, 1, 2, 2, 1000]  # nothing is computed twice
    text, written = capsys.readouterr().out, (tmp_path / "manifest.json").read_bytes()
    run()
    assert calls == [0, 1, 2, 2, 1000] and (tmp_path / "manifest.json").read_bytes() == written

    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest["seeds"] == {"test": "0-2", "validation": "1000"}
    assert manifest["settings"]["modulation_timestep"] == 21 and "num_masks" in manifest["settings"]
    assert EMERDIFF in text and "95 %" in text and "K = 4" in text
    assert float(re.search(r"replayed x₀ \(float32\): (\S+)", text)[1]) < 1e-5

    scores = summary["scores"]
    assert scores.loc[CEILING, "oracle mIoU"] > scores.loc[POSITION, "oracle mIoU"]
    assert scores.loc[CEILING].isna().sum() == 4 and scores.drop(CEILING).notna().all().all()
    assert ((scores.fillna(0) >= 0) & (scores.fillna(0) <= 100)).drop(columns="s / image").all().all()
    differences = summary["differences"]
    for first, second in ((EMERDIFF, BILINEAR), (BILINEAR, POSITION)):
        chosen = (differences["difference"] == f"{first} − {second}") & (
            differences["measure"] == "oracle mIoU"
        )
        (row,) = differences[chosen].itertuples()
        by_hand = scores.loc[first, "oracle mIoU"] - scores.loc[second, "oracle mIoU"]
        assert row.points == pytest.approx(by_hand) and row.low <= row.points <= row.high

    more = ["--num-masks", "5"]  # other settings have results of their own
    assert run(*more)["scores"].loc[EMERDIFF, "oracle mIoU"] != scores.loc[EMERDIFF, "oracle mIoU"]
    assert run()["scores"].equals(scores) and len(calls) == 9
    for option in ("--num-scenes", "--fit-scenes"):
        with pytest.raises(ValueError, match="leaves no picture"):
            run(option, "0")


def test_classes_are_coarse_and_boundaries_fine(pipe):
    scene, settings = Toyscapes("test")[7], {"num_masks": 4} | QUICK
    scores = yardsticks.evaluate_scene(pipe, scene, settings)["methods"][EMERDIFF]
    labels = pipe(scene.image, generator=seeded(scene.seed), **settings).labels
    assert scores["boundary_f"] == boundary_scores(labels, scene.labels, 2)[2]
    assert scores["boundary_f"] != boundary_scores(labels, scene.coarse_labels, 2)[2]
    assert scores["table"] == contingency_table(labels, scene.coarse_labels, 4, 10).tolist()


def test_the_ceiling_keeps_what_a_grid_can_hold():
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 2
    assert np.array_equal(yardsticks.grid_of_truth(labels, (4, 4), 3), labels)
    labels[3:6, 3:6] = 1  # less than half of any cell
    assert 1 not in yardsticks.grid_of_truth(labels, (4, 4), 3)
