"""Photographs: the streets model, pictures at another size, and what is said of a run on them."""

import numpy as np
import pytest
from PIL import Image

from emerdiff_lib import checkpoints, load_pipeline
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.datasets.resized import Resized
from emerdiff_lib.evaluation.metrics import contingency_table, mean_iou
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.experiments import names, photographs
from emerdiff_lib.experiments.rivals import Result, score_all

from .conftest import seeded


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    """Two pictures of CamVid's layout per split: the upper half sky, below it road, and a strip without a label."""
    root = tmp_path_factory.mktemp("camvid")
    for split in ("train", "val"):
        lines = []
        for part in (split, f"{split}annot"):
            (root / part).mkdir()
        for i in range(2):
            labels = np.full((36, 48), 3, np.uint8)
            labels[:18], labels[34:] = 0, 11
            pixels = np.where((labels == 0)[..., None], 200 + i, 60).astype(np.uint8).repeat(3, 2)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            Image.fromarray(labels).save(root / f"{split}annot" / f"{i}.png")
            lines.append(f"/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


# -- the model


def test_the_streets_model_comes_with_its_terms_and_settings():
    folder = checkpoints.STREETS_FOLDER
    assert "CC-BY-NC-4.0" in (folder / "LICENSE").read_text()
    assert "license: cc-by-nc-4.0" in (folder / "README.md").read_text()
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) < 20e6
    pipe = load_pipeline("streets")
    own = pipe.default_settings()
    assert (own["num_masks"], own["denoising_steps"], own["processing_resolution"]) == (16, 6, 166)
    assert pipe.resolve(mode="pixel").shortcuts.denoising_steps == 2
    assert {"road", "sky", "car", "building"} <= set(pipe.tokenizer.get_vocab())


def test_the_streets_model_inverts_exactly_and_draws_what_it_is_told():
    pipe = load_pipeline("streets")
    pipe.set_progress_bar_config(disable=True)
    picture = np.zeros((72, 96, 3), np.uint8)
    picture[:36] = (180, 200, 230)
    picture[36:] = np.random.default_rng(0).integers(60, 90, (36, 96, 1))
    trajectory = pipe.invert(Image.fromarray(picture), start_timestep=481, processing_resolution=80)
    replayed = pipe.replay(trajectory)
    error = (replayed - trajectory.clean_latents).norm() / trajectory.clean_latents.norm()
    assert error < 1e-4
    out = pipe(Image.fromarray(picture), 2, processing_resolution=80, generator=seeded())
    upper, lower = out.labels[:30], out.labels[42:]
    assert (upper == np.median(upper)).mean() > 0.8 and (lower == np.median(lower)).mean() > 0.8
    assert np.median(upper) != np.median(lower)


def test_a_package_may_leave_the_streets_model_out(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "STREETS_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="not in this installation .* its terms allow to leave out"):
        load_pipeline("streets")


# -- another size


def test_resized_pictures_keep_their_classes_names_and_seeds(camvid):
    data = open_dataset("camvid", camvid, "val")
    small = Resized(data, 24)
    first, before = small[0], data[0]
    assert first.image.size == (24, 18) and first.labels.shape == (18, 24)
    assert (first.name, first.seed) == (
        before.name,
        before.seed,
    ) and first.labels.dtype == before.labels.dtype
    assert np.array_equal(first.labels, before.labels[1::2, 1::2])  # nearest: a pixel of each four
    assert len(small) == len(data) == 2 and "24 pixels wide" in repr(small)
    assert small.class_names == data.class_names and np.array_equal(small.palette, data.palette)
    with pytest.raises(ValueError, match="width=4"):
        Resized(data, 4)


def test_splits_are_camvid_s_or_drawn_scenes(camvid):
    name, data, fit = photographs.open_splits("", str(camvid), "val", "train", 24)
    assert name == "camvid" and len(data) == len(fit) == 2 and photographs.scenes_of(data, range(2)) == []
    name, data, _ = photographs.open_splits("", "", "val", "train", 64)
    assert name == photographs.DRAWN and data[0].image.size == (64, 64)
    assert photographs.scenes_of(data, range(2)) == [1000, 1001]
    assert photographs.vocabulary(data, "streets").templates == ("{}",)
    assert "{}" not in photographs.vocabulary(data, "toyscapes").templates


# -- what is said


@pytest.fixture(scope="module")
def results():
    """Three pictures under three methods, of random segments."""
    rng, found = np.random.default_rng(0), []
    for i in range(3):
        truth = rng.integers(0, 3, (16, 16)).astype(np.uint8)
        truth[0] = 3  # no class
        segments = {
            names.BILINEAR: np.where(rng.random(truth.shape) < 0.3 * (i + 1), 0, truth).clip(0, 2),
            names.POSITION: rng.integers(0, 4, truth.shape),
            names.EMERDIFF_PIXEL: truth.clip(0, 2),
        }
        made = {m: Result(s.astype(np.int32), np.eye(4, dtype=np.float32), 0.0) for m, s in segments.items()}
        found.append(
            {"name": str(i), "methods": score_all(made, truth, 3, 3), "truth": truth, "segments": segments}
        )
    return found


def oracle_miou(results, method):
    total = 0
    for result in results:
        total += oracle(contingency_table(result["segments"][method], result["truth"], 4, 3, 3))
    return 100 * mean_iou(total)


def test_differences_are_of_summed_confusions_and_paired(results):
    found = photographs.differences(results, draws=200).set_index(["method", "minus", "measure"])
    assert len(found) == 4  # two pairs took part, under two measures
    row = found.loc[(names.EMERDIFF_PIXEL, names.BILINEAR, "oracle mIoU")]
    expected = oracle_miou(results, names.EMERDIFF_PIXEL) - oracle_miou(results, names.BILINEAR)
    assert row["points"] == pytest.approx(expected) and row["low"] <= row["points"] <= row["high"]
    assert any(names.POSITION in sentence for sentence in photographs.describe(found.reset_index()))


def test_a_control_stands_beside_the_same_pictures_only(results):
    both = photographs.with_control(results, results)
    assert photographs.CONTROL.format(names.BILINEAR) in both[0]["methods"] and len(both[0]["methods"]) == 6
    assert [r["name"] for r in photographs.with_control(results, results[1:2])] == ["1"]
    with pytest.raises(ValueError, match="no picture in common"):
        photographs.with_control(results[:1], results[1:2])


def test_examples_follow_the_rule(results):
    """The more of a picture is spoilt, the worse it is."""
    assert photographs.by_rule(results, names.BILINEAR, 1) == {"best": [0], "median": [1], "worst": [2]}


def test_classes_are_told_by_the_most_of_their_pixels(camvid):
    data = open_dataset("camvid", camvid, "val")
    truth = data[0].labels
    segments = np.zeros(truth.shape, np.int32)
    segments[20:] = 1
    named = photographs.told(segments, truth, data)
    assert (named[:20] == 0).all() and (named[20:] == 3).all()


def test_a_ceiling_of_aligned_truth_is_perfect(camvid):
    pipe, data = load_pipeline("toyscapes"), open_dataset("camvid", camvid, "val")
    name = data[1].name  # the first one failed, say
    (result,) = photographs.with_ceiling(pipe, data, [{"name": name, "methods": {}}], [0, 1])
    assert result["position"] == 1
    table = photographs.by_class([result], [names.CEILING], data.class_names)
    assert table.loc[names.CEILING, ["sky", "road"]].min() > 90 and table.loc[
        "% of pixels"
    ].sum() == pytest.approx(100)


def test_a_ceiling_keeps_what_a_grid_can_hold():
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 2
    assert np.array_equal(photographs.grid_of_truth(labels, (4, 4), 3), labels)
    labels[3:6, 3:6] = 1  # less than half of any cell
    assert 1 not in photographs.grid_of_truth(labels, (4, 4), 3)
