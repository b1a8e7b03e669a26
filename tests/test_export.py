"""Exports, each opened by the one that it is for."""

import json
import os
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from safetensors import safe_open

from emerdiff_lib.datasets.images import find_images
from emerdiff_lib.export import FORMATS, join_coco, load_output, polygons, prompts, save_output, write_formats
from emerdiff_lib.stages import EmerDiffOutput

from .conftest import refusal

ARRAYS = ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "difference_maps")


@pytest.fixture(scope="module")
def output():
    """Segments of all kinds: a ring with an island in its hole, one in two pieces, single pixels, one that is nowhere."""
    labels = np.zeros((20, 30), np.int32)
    labels[2:12, 3:15] = 1
    labels[4:10, 5:13] = 0
    labels[6:8, 7:10] = 2
    labels[14:, 20:] = 3
    labels[0, 29] = 3
    labels[16, 2] = labels[17, 3] = 5  # they touch at a corner
    rng = np.random.default_rng(0)
    return EmerDiffOutput(
        labels=labels,
        baseline_labels=(labels + 1) % 6,
        coarse_masks=rng.random((6, 4, 6)) > 0.5,
        mask_embeddings=rng.normal(size=(6, 3)).astype(np.float32),
        difference_maps=rng.random((6, 20, 30)).astype(np.float32),
        settings={"num_masks": 6},
        timings={},
    )


@pytest.fixture(scope="module")
def image(output):
    return np.random.default_rng(1).integers(0, 256, (*output.labels.shape, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(output, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "new"
    save_output(output, Image.fromarray(image), folder)
    write_formats(output, image, folder, FORMATS)
    return folder


@pytest.fixture(scope="module")
def present(output):
    return [int(k) for k in np.unique(output.labels)]


def test_arrays_are_read_back_and_others_may_read_every_file(output, folder):
    again, numpy = load_output(folder), np.load(folder / "arrays.npz")
    for name in ARRAYS:
        for array in (getattr(again, name), numpy[name]):
            np.testing.assert_array_equal(array, getattr(output, name))
    with safe_open(folder / "masks.safetensors", "np") as pieces:
        one = pieces.get_slice("difference_maps")[1]
    np.testing.assert_array_equal(one, output.difference_maps[1])
    assert again.settings == output.settings
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.rglob("*") if path.is_file())


def test_what_was_written_is_no_input(output, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "mine.png")
    save_output(output, image, tmp_path)
    assert [sample.name for sample in find_images(tmp_path)] == ["mine.png"]


def test_coco_s_own_reader_gets_the_masks_and_panoptic_ids_are_the_record_s(output, folder, present):
    red, green, blue = np.moveaxis(np.array(Image.open(folder / "panoptic.png")).astype(int), -1, 0)
    record = json.loads((folder / "panoptic.json").read_text())
    (panoptic,), coco = record["annotations"], COCO(folder / "coco.json")
    instances = coco.loadAnns(coco.getAnnIds())
    assert {category["id"] for category in record["categories"]} == {k + 1 for k in present}
    for k, one, segment in zip(present, instances, panoptic["segments_info"], strict=True):
        mask = output.labels == k
        assert np.array_equal(coco.annToMask(one), mask)
        assert np.array_equal(red + 256 * green + 256**2 * blue == segment["id"], mask)
        for info in (one, segment):
            assert info["category_id"] == k + 1 and info["area"] == mask.sum()
            assert info["bbox"] == coco_masks.toBbox(one["segmentation"]).tolist()


def test_polygons_hold_exactly_the_middles_of_their_pixels(output, folder, present):
    kept = json.loads((folder / "polygons.geojson").read_text())
    noise = np.random.default_rng(0).integers(0, 3, (17, 23))
    for labels, record in ((output.labels, kept), (noise, polygons(noise))):
        y, x = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
        assert [f["properties"]["segment"] for f in record["features"]] == np.unique(labels).tolist()
        for feature in record["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.geom_type == "MultiPolygon" and (shape.is_valid or labels is noise)
            inside = shapely.contains_xy(shapely.make_valid(shape), x.ravel(), y.ravel()).reshape(x.shape)
            assert np.array_equal(inside, labels == feature["properties"]["segment"])
    ring = shapely.geometry.shape(kept["features"][1]["geometry"])
    assert [len(part.interiors) for part in ring.geoms] == [1]


def test_the_table_is_what_numpy_counts(output, image, folder, present):
    table = pd.read_csv(folder / "segments.csv", index_col=0)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "segments.parquet"), table, check_dtype=False)
    assert table.index.tolist() == present and table["share"].sum() == pytest.approx(1)
    for segment, row in table.iterrows():
        y, x = np.nonzero(output.labels == segment)
        assert row["area"] == len(y) and row["cx"] == pytest.approx(x.mean() + 0.5)
        box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
        assert row[["x", "y", "width", "height"]].tolist() == box
        np.testing.assert_allclose(row[["red", "green", "blue"]].astype(float), image[y, x].mean(0))
        queries = row[["q0", "q1", "q2"]].astype(float)
        np.testing.assert_allclose(queries, output.mask_embeddings[segment], rtol=1e-6)


def test_images_show_segments(output, image, folder, present, tmp_path):
    labels = Image.open(folder / "labels_palette.png")
    assert labels.mode == "P" and np.array_equal(np.array(labels), output.labels)
    seen = np.array(labels.convert("RGB"))
    colours = {tuple(seen[output.labels == k][0]) for k in present}
    assert len(colours) == len(present) and seen.mean() > 30  # not black
    crop = np.array(Image.open(folder / "crop_0001.png"))
    assert np.array_equal(crop[..., 3] == 255, output.labels[2:12, 3:15] == 1)
    assert np.array_equal(crop[..., :3], image[2:12, 3:15])
    assert len(list(folder.glob("crop_*.png"))) == len(present)
    (tmp_path / "crop_9999.png").write_bytes(b"mine")
    for one in (output, replace(output, labels=np.minimum(output.labels, 1))):
        write_formats(one, image, tmp_path, ["crops"])
    assert [file.name[5:9] for file in sorted(tmp_path.glob("crop_*"))] == ["0000", "0001", "9999"]


def test_prompts_point_into_their_segment_and_sam_takes_them(output, image, folder, present):
    from transformers import SamImageProcessor, SamProcessor

    points = json.loads((folder / "prompts.json").read_text())
    assert [one["segment"] for one in points] == present
    for one in points:
        x, y = (int(c) for c in one["point"])
        assert output.labels[y, x] == one["segment"]
        x0, y0, x1, y1 = one["box"]
        inside = output.labels[y0:y1, x0:x1] == one["segment"]
        assert inside.sum() == (output.labels == one["segment"]).sum()
        assert inside[0].any() and inside[:, -1].any()
    places, boxes = [[[one["point"]] for one in points]], [[one["box"] for one in points]]
    given = {"input_points": places, "input_boxes": boxes, "return_tensors": "pt"}
    inputs = SamProcessor(SamImageProcessor())(Image.fromarray(image), **given)
    assert inputs["input_points"].shape == (1, len(points), 1, 2)
    assert inputs["input_boxes"].shape == (1, len(points), 4)
    assert [one["segment"] for one in prompts(np.array([[254, 255]], np.uint8))] == [254, 255]


def test_equal_segmentations_make_equal_files_at_any_hour(output, image, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_formats(output, Image.fromarray(image), tmp_path, FORMATS)
    for path in tmp_path.glob("[!.]*"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("formats", "size", "message"),
    [
        (["cocoa"], (20, 30), "format='cocoa' is unknown (did you mean 'coco'"),
        ("coco", (20, 30), "format='c' is unknown"),
        (["coco"], (5, 5), "the labels are (20, 30); pass the one that was segmented"),
        (["coco", "palette"], (15, 20), "there are 300 segments; leave 'palette' out"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(output, tmp_path, formats, size, message):
    many = np.arange(300, dtype=np.int32).reshape(15, 20)
    masks, embeddings = np.ones((300, 4, 6), bool), np.zeros((300, 2), np.float32)
    segmented = EmerDiffOutput(many, many, masks, embeddings, None, {}, {}) if size == (15, 20) else output
    image = np.zeros((*size, 3), np.uint8)
    assert message in refusal(lambda: write_formats(segmented, image, tmp_path / "new", formats))
    assert not (tmp_path / "new").exists()


def test_one_coco_file_holds_the_images_of_a_run_and_takes_no_other_s_place(output, image, tmp_path):
    for name in ("a.jpg", "b/a.jpg"):
        write_formats(output, image, tmp_path / name.replace("/", "-"), ["coco"], name)
    for _ in range(2):  # its own is replaced
        join_coco([tmp_path / "a.jpg", tmp_path / "b-a.jpg"], tmp_path / "coco.json")
    joined, one = COCO(tmp_path / "coco.json"), COCO(tmp_path / "a.jpg" / "coco.json")
    assert sorted(record["file_name"] for record in joined.imgs.values()) == ["a.jpg", "b/a.jpg"]
    assert len(joined.anns) == 2 * len(one.anns) and one.anns.keys() < joined.anns.keys()
    (tmp_path / "mine.json").write_text("{}")
    assert "in the way" in refusal(lambda: join_coco([tmp_path / "a.jpg"], tmp_path / "mine.json"))
    os.replace(tmp_path / "mine.json", tmp_path / "a.jpg" / "coco.json")
    assert "coco.json cannot be read" in refusal(lambda: join_coco([tmp_path / "a.jpg"], tmp_path / "b"))


@pytest.mark.parametrize("name", ["labels.png", "overlay.png", "settings.json", "segments.csv"])
def test_files_of_one_s_own_are_not_written_over(output, image, tmp_path, name):
    put = lambda one: (save_output(one, image, tmp_path), write_formats(one, image, tmp_path, ["table"]))
    put(output), put(replace(output, labels=output.baseline_labels))  # a call's own files are replaced
    (tmp_path / name).write_text("mine")
    assert f"{name} is in the way" in refusal(lambda: put(output))
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("file", ["labels.png", "baseline_labels.png", "masks.safetensors", "settings.json"])
def test_what_was_changed_is_not_handed_out(output, image, tmp_path, file):
    save_output(output, Image.fromarray(image), tmp_path)
    swapped = {"labels": output.baseline_labels, "baseline_labels": output.labels}
    another = replace(output, mask_embeddings=output.mask_embeddings + 1, **swapped)
    save_output(another, Image.fromarray(image), tmp_path / "other")
    os.replace(tmp_path / "other" / file, tmp_path / file)  # as after a kill between two writes
    assert "is not the file that was written with" in refusal(lambda: load_output(tmp_path))
