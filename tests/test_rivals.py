"""EmerDiff and its rivals on a data set: the pipeline's own numbers, resumable to the byte, and tables of what was stored."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from emerdiff_lib.assignment import assign_bilinear
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.evaluation import tables
from emerdiff_lib.experiments import names, rival_tables, rivals

from .conftest import seeded

METHODS = [names.EMERDIFF_FAST, names.BILINEAR, names.BILINEAR_GUIDED, names.COLOUR, names.DIFFCUT]
SETTINGS = {"num_masks": 4, "modulation_timestep": 41, "noise_ensemble_size": 1}


@pytest.fixture(scope="module")
def data():
    return open_dataset("toyscapes", split="test")


def evaluated(pipe, folder, data, positions=range(3), methods=METHODS, **settings):
    return rivals.evaluate(pipe, data, methods, folder / "report", SETTINGS | settings, positions)


def written(results, folder):
    tables.write_tables(
        tables.summarise(results, [], draws=50), tables.per_image_rows(results), SETTINGS, folder
    )
    return (folder / "results.parquet").read_bytes(), (folder / "summary.json").read_bytes()


@pytest.mark.parametrize("more", [{}, {"denoising_steps": 3, "guide_radius": 1.0, "filter_sigma": 2.0}])
def test_every_row_of_emerdiff_is_what_the_pipeline_gives(pipe, data, more):
    sample, settings = data[7], SETTINGS | more
    methods = [*rivals.EMERDIFFS, names.BILINEAR]
    found = rivals.segment(pipe, sample, methods, settings)
    alone = lambda **keywords: pipe(sample.image, generator=seeded(sample.seed), **(settings | keywords))
    assert list(found) == methods
    exact, fast = alone(), alone(mode="fast")
    assert np.array_equal(found[names.EMERDIFF].labels, exact.labels)
    assert np.array_equal(found[names.BILINEAR].labels, exact.baseline_labels)
    guided = alone(guide_radius=settings.get("guide_radius", 1.5)).labels
    assert np.array_equal(found[names.EMERDIFF_GUIDED].labels, guided)
    assert np.array_equal(found[names.EMERDIFF_FAST].labels, fast.labels)
    pixel = alone(mode="pixel")
    assert np.array_equal(found[names.EMERDIFF_PIXEL].labels, pixel.labels)
    assert len({r.labels.tobytes() for r in found.values()}) == (4 if more else 5)
    for name, result in found.items():
        whose = {names.EMERDIFF_PIXEL: pixel, names.EMERDIFF_FAST: fast}.get(name, exact)
        assert np.array_equal(result.embeddings, whose.mask_embeddings) and result.seconds > 0


def test_methods_on_the_same_masks_share_them(pipe, data):
    sample = data[7]
    coarse = pipe.coarse(sample.image, generator=seeded(sample.seed), **SETTINGS)
    found = rivals.segment(pipe, sample, list(rivals.ON_THE_SAME_MASKS), SETTINGS)
    assert np.array_equal(found[names.BILINEAR].labels, assign_bilinear(coarse.masks, coarse.size))
    assert len({r.labels.tobytes() for r in found.values()}) == len(found)
    for name, result in found.items():
        assert np.array_equal(result.embeddings, coarse.embeddings.numpy()), name
        assert (result.labels == found[names.BILINEAR].labels).mean() > 0.7, name


def test_every_method_runs_and_gives_a_segment_for_every_embedding(pipe, data):
    methods = rivals.check_methods([], has_backbone=False)
    found = rivals.segment(pipe, data[7], methods, SETTINGS)
    assert list(found) == methods and names.BACKBONE not in methods
    for name, result in found.items():
        assert result.labels.shape == (128, 128) and result.labels.min() >= 0, name
        assert result.labels.max() < len(result.embeddings), name


def test_interrupted_runs_go_on_and_end_alike_to_the_byte(pipe, data, tmp_path, monkeypatch):
    calls, segment = [], rivals.segment

    def interrupted(pipe, sample, *args):
        calls.append(sample.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return segment(pipe, sample, *args)

    monkeypatch.setattr(rivals, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(pipe, tmp_path, data)
    first = written(evaluated(pipe, tmp_path, data), tmp_path)
    again = written(evaluated(pipe, tmp_path, data), tmp_path)
    assert calls == ["000000", "000001", "000001", "000002"] and first == again
    evaluated(pipe, tmp_path, data, num_masks=5)  # other settings have results of their own
    assert calls[4:] == ["000000", "000001", "000002"]
    assert first == written(evaluated(pipe, tmp_path, data), tmp_path) and len(calls) == 7


def test_defaults_are_part_of_what_results_belong_to(pipe, data, tmp_path):
    """A default that changes between versions makes other results, though nobody gave it."""
    evaluated(pipe, tmp_path, data, range(1), [names.BILINEAR])
    again = evaluated(pipe, tmp_path, data, range(1), [names.BILINEAR], modulation_strength=10.0)
    other = evaluated(pipe, tmp_path, data, range(1), [names.BILINEAR], modulation_strength=9.0)
    assert again.report.states == {"kept": 1} and other.report.states == {"recomputed": 1}
    assert list(other.report.reasons) == ["settings › modulation_strength was 10.0, is 9.0"]


def test_tables_follow_from_what_is_stored(pipe, data, tmp_path):
    results = evaluated(pipe, tmp_path, data)
    found, rows = tables.summarise(results, [], draws=50), tables.per_image_rows(results)
    assert len(rows) == 3 * len(METHODS) and not rows.isna().any().any()
    written(results, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), rows, check_dtype=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"settings", "scores", "intervals", "paired", "objects", "classes"}
    scores = found["scores"]
    assert list(scores.index) == METHODS
    for method in METHODS:  # pixel accuracy by hand
        counts = [np.array(result["methods"][method]["table"]) for result in results]
        expected = sum(t.max(1).sum() for t in counts) / sum(t.sum() for t in counts)
        assert scores.loc[method, "oracle accuracy"] == pytest.approx(100 * expected)
        assert all(t.sum() == 128 * 128 for t in counts)
    assert (scores["oracle mIoU"] >= scores["modified mIoU (same images)"] - 1e-9).all()
    paired = found["paired"]
    oracle = paired[(paired["minus"] == names.BILINEAR) & (paired.measure == "oracle")].iloc[0]
    difference = scores.loc[names.EMERDIFF_FAST, "oracle mIoU"] - scores.loc[names.BILINEAR, "oracle mIoU"]
    assert (
        oracle["points"] == pytest.approx(difference) and oracle["low"] <= oracle["points"] <= oracle["high"]
    )


def test_ignored_pixels_are_not_scored(pipe, tmp_path, scene):
    """A folder data set with void pixels, read and scored like the official ones."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    labels = scene.coarse_labels.copy()
    labels[:20] = 255
    scene.image.crop((0, 0, 128, 96)).save(tmp_path / "images/a.png")
    Image.fromarray(labels[:96]).save(tmp_path / "labels/a.png")
    folder = open_dataset("folder", tmp_path)
    (result,) = evaluated(pipe, tmp_path, folder, range(len(folder)), METHODS[:2])
    for entry in result["methods"].values():
        assert np.array(entry["table"]).sum() == 76 * 128


def test_methods_that_cannot_be_used_are_one_sentence():
    for methods, said in (
        (["U-Net"], "'EmerDiff'"),
        (["EmerDiff fast"], "did you mean 'EmerDiff, fast'"),
        ([names.BACKBONE], "dinov2"),
        ([names.SLIC, names.SLIC], "twice"),
        (names.SLIC, "one string"),
    ):
        with pytest.raises(ValueError, match=said):
            rivals.check_methods(methods, has_backbone=False)
    assert rivals.check_methods(rivals.ALL_METHODS, True) == list(rivals.ALL_METHODS)
    assert rivals.check_methods([names.SLIC], True) == [
        names.SLIC,
        names.BACKBONE,
    ]  # it was given to take part


def test_settings_that_cannot_be_used_are_one_sentence(pipe):
    for settings, said in (
        ({"mode": "fast"}, "modes are methods here"),
        ({"num_masks": 4}, "given twice, as 12 and in settings as 4"),
        ({"num_mask": 4}, "did you mean 'num_masks'"),
        ({"modulation_strength": "ten"}, "modulation_strength='ten'"),
        ("fast", "no dictionary"),
    ):
        with pytest.raises(ValueError, match=said):
            rivals.check_settings(pipe, 12, settings)
    assert rivals.check_settings(pipe, 12, {"guide_radius": 1}) == {"num_masks": 12, "guide_radius": 1}
    assert rivals.check_settings(pipe, None, {"num_masks": 4}) == {"num_masks": 4}


def test_two_processes_share_a_folder(tmp_path, capsys):
    options = ["--limit", "3", "--fit-limit", "1", "--methods", names.BILINEAR]
    options += ["--settings", '{"noise_ensemble_size": 1}', "--output"]
    for shard in ("1/2", "0/2"):
        rivals.main([*options, str(tmp_path / "shared"), "--shard", shard])
    rivals.main([*options, str(tmp_path / "alone")])
    assert "3 pictures of ToyscapesDataset" in capsys.readouterr().out
    files = sorted((tmp_path / "alone").rglob("*.json"))
    assert [file.name for file in files].count("run.json") == 2 and len(files) == 2 + 3 + 1
    for file in files:
        other = tmp_path / "shared" / file.relative_to(tmp_path / "alone")
        kept = [json.loads(path.read_text()) for path in (file, other)]
        if file.name != "run.json":
            for record in kept:
                record["result"]["methods"][names.BILINEAR].pop("seconds")
                record.pop("checksum")
        assert kept[0] == kept[1]


def test_a_picture_of_a_data_set_does_not_depend_on_those_before(pipe, data, tmp_path):
    torch.manual_seed(3)
    first = evaluated(pipe, tmp_path / "a", data, [1], [names.ENCODER, names.DIFFCUT])
    torch.manual_seed(4)
    second = evaluated(pipe, tmp_path / "b", data, [0, 1], [names.ENCODER, names.DIFFCUT])
    for method in (names.ENCODER, names.DIFFCUT):
        assert first[0]["methods"][method]["table"] == second[1]["methods"][method]["table"]


def paired_rows(**intervals):
    """The "paired" table for the oracle, from {name of a method: (points, low, high)}."""
    return pd.DataFrame(
        [
            {
                "minus": getattr(names, name),
                "measure": "oracle",
                "points": p,
                "low": low,
                "high": high,
                "p (Wilcoxon)": q,
            }
            for name, (p, low, high, q) in intervals.items()
        ]
    )


def test_sentences_follow_from_the_tables():
    paired = paired_rows(
        BILINEAR=(9.0, 8.0, 10.0, 0.001), BILINEAR_GUIDED=(-2.0, -3.0, -1.0, 0.2), SLIC=(1.0, -1.0, 3.0, 0.5)
    )
    scores = pd.DataFrame(
        {
            "oracle mIoU": [60.0, 51.0, 62.0, 59.0],
            "VI (bits)": [2.0, 1.0, 3.0, 4.0],
            "segments": [12.0, 12, 12, 99],
        },
        index=[names.EMERDIFF, names.BILINEAR, names.BILINEAR_GUIDED, names.SLIC],
    )
    assert rival_tables.standing(paired, "oracle") == {
        "ahead of": [names.BILINEAR],
        "behind": [names.BILINEAR_GUIDED],
        "not told apart from": [names.SLIC],
    }
    table = rival_tables.paired_table(paired)
    assert table.loc[names.BILINEAR, "oracle mIoU"] == "+9.0 [+8.0, +10.0]"
    assert table.loc[names.SLIC, "oracle mIoU"] == "+1.0 [-1.0, +3.0] (n.s.)"
    assert rival_tables.best_of_each(scores)["best"].to_dict() == {
        "oracle mIoU": names.BILINEAR_GUIDED,
        "VI (bits)": names.BILINEAR,
    }
    said = "\n".join(rival_tables.describe({"scores": scores, "paired": paired}))
    assert (
        'oracle mIoU: EmerDiff is ahead of "bilinear"; behind "bilinear, guided filter"; not told apart from "SLIC".'
        in said
    )
    assert (
        'modulated denoising is behind the best that the same masks reach without it ("bilinear, guided filter", 62.0)'
        in said
    )
    assert "-2.0 [-3.0, -1.0]" in said and "under every protocol: 60.0 oracle mIoU." in said
    assert rival_tables.kind(names.EMERDIFF_FAST) == rival_tables.KINDS[0]
    assert [rival_tables.kind(m) for m in (names.BILINEAR_WALKER, names.PIXELS_WALK, names.SLIC)] == list(
        rival_tables.KINDS[1:]
    )


def test_the_tables_of_single_pictures_have_no_intervals(pipe, data, tmp_path):
    results = evaluated(pipe, tmp_path, data, range(1), [names.EMERDIFF_FAST, names.BILINEAR, names.SLIC])
    found = tables.summarise(results, results, draws=20)
    assert "[" not in rival_tables.paired_table(found["paired"]).to_string()
    assert any("not told apart from" in sentence for sentence in rival_tables.describe(found))
