"""Evaluation of a data set: resumable to the byte, and tables that follow from what was stored."""

import json

import numpy as np
import pandas as pd
import pytest

from emerdiff_lib.datasets import ToyscapesDataset, open_dataset
from emerdiff_lib.evaluation import runner
from emerdiff_lib.evaluation.methods import ALL_METHODS, check_methods

METHODS = ["EmerDiff fast", "bilinear (SD)", "guided filter", "colour k-means", "DiffCut"]
SETTINGS = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1}


def evaluated(pipe, folder, data=None, limit=3, methods=METHODS, **settings):
    data = data or ToyscapesDataset(split="test")
    return runner.evaluate(pipe, data, methods, folder / "report", SETTINGS | settings, limit)


def written(results, folder):
    runner.write_tables(
        runner.summarise(results, [], draws=50), runner.per_image_rows(results), SETTINGS, folder
    )
    return (folder / "results.parquet").read_bytes(), (folder / "summary.json").read_bytes()


def test_interrupted_runs_go_on_and_end_alike_to_the_byte(pipe, tmp_path, monkeypatch):
    calls, segment = [], runner.segment

    def interrupted(pipe, sample, *args):
        calls.append(sample.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return segment(pipe, sample, *args)

    monkeypatch.setattr(runner, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(pipe, tmp_path)
    first = written(evaluated(pipe, tmp_path), tmp_path)
    again = written(evaluated(pipe, tmp_path), tmp_path)
    assert calls == ["000000", "000001", "000001", "000002"] and first == again
    with pytest.raises(ValueError, match="other settings"):
        evaluated(pipe, tmp_path, num_masks=5)


def test_tables_follow_from_what_is_stored(pipe, tmp_path):
    results = evaluated(pipe, tmp_path)
    tables, rows = runner.summarise(results, [], draws=50), runner.per_image_rows(results)
    assert len(rows) == 3 * len(METHODS) and not rows.isna().any().any()
    written(results, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), rows, check_dtype=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"settings", "scores", "intervals", "paired", "objects", "classes"}
    scores = tables["scores"]
    assert list(scores.index) == METHODS
    for method in METHODS:  # pixel accuracy by hand
        found = [np.array(result["methods"][method]["table"]) for result in results]
        expected = sum(t.max(1).sum() for t in found) / sum(t.sum() for t in found)
        assert scores.loc[method, "oracle accuracy"] == pytest.approx(100 * expected)
        assert all(t.sum() == 128 * 128 for t in found)
    assert (scores["oracle mIoU"] >= scores["modified mIoU (same images)"] - 1e-9).all()
    paired = tables["paired"]
    oracle = paired[(paired["minus"] == "bilinear (SD)") & (paired.measure == "oracle")].iloc[0]
    difference = scores.loc["EmerDiff fast", "oracle mIoU"] - scores.loc["bilinear (SD)", "oracle mIoU"]
    assert (
        oracle["points"] == pytest.approx(difference) and oracle["low"] <= oracle["points"] <= oracle["high"]
    )


def test_ignored_pixels_and_other_sizes_are_scored(pipe, tmp_path, scene):
    """A folder data set with void pixels, read and scored like the official ones."""
    from PIL import Image

    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    labels = scene.coarse_labels.copy()
    labels[:20] = 255
    scene.image.crop((0, 0, 128, 96)).save(tmp_path / "images/a.png")
    Image.fromarray(labels[:96]).save(tmp_path / "labels/a.png")
    data = open_dataset("folder", tmp_path)
    (result,) = evaluated(pipe, tmp_path, data, limit=None, methods=METHODS[:2])
    for entry in result["methods"].values():
        assert np.array(entry["table"]).sum() == 76 * 128


def test_unknown_methods_are_named():
    with pytest.raises(ValueError, match="'EmerDiff'"):
        check_methods(["U-Net"], False)
    with pytest.raises(ValueError, match="dinov2"):
        check_methods(["backbone k-means"], False)
    assert check_methods(ALL_METHODS, True) == list(ALL_METHODS)
