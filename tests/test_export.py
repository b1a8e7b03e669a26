"""Exports, each opened by the one that it is for."""

import json
import time

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
import zarr
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from emerdiff_lib.export import (
    FORMATS,
    load_output,
    polygons,
    prompts,
    save_output,
    segment_table,
    to_transformers,
    write_formats,
)
from emerdiff_lib.stages import EmerDiffOutput


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


def present(output):
    return [int(k) for k in np.unique(output.labels)]


def test_its_own_files_are_read_back(output, folder):
    again = load_output(folder)
    for name in ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "difference_maps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(output, name))
    assert again.settings == output.settings


def test_others_may_read_every_file(folder):
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.rglob("*") if path.is_file())


def test_the_palette_is_segments_to_code_and_colours_to_eyes(output, folder):
    picture = Image.open(folder / "labels_palette.png")
    assert picture.mode == "P" and np.array_equal(np.array(picture), output.labels)
    seen = np.array(picture.convert("RGB"))
    colours = {tuple(seen[output.labels == k][0]) for k in present(output)}
    assert len(colours) == len(present(output)) and seen.mean() > 30  # not black


def test_coco_s_own_reader_gets_the_same_masks(output, folder):
    coco = COCO(folder / "coco.json")
    found = coco.loadAnns(coco.getAnnIds())
    assert [one["category_id"] - 1 for one in found] == present(output)
    for one in found:
        mask = coco.annToMask(one)
        assert np.array_equal(mask, output.labels == one["id"] - 1) and one["area"] == mask.sum()
        assert one["bbox"] == coco_masks.toBbox(one["segmentation"]).tolist()


def test_the_panoptic_picture_holds_the_ids_of_its_record(output, folder):
    red, green, blue = np.moveaxis(np.array(Image.open(folder / "panoptic.png")).astype(int), -1, 0)
    ids = red + 256 * green + 256**2 * blue
    record = json.loads((folder / "panoptic.json").read_text())
    (annotation,) = record["annotations"]
    categories = {category["id"] for category in record["categories"]}
    assert {s["id"] for s in annotation["segments_info"]} == set(np.unique(ids))
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        assert (
            np.array_equal(mask, output.labels == segment["id"] - 1) and segment["category_id"] in categories
        )
        assert segment["area"] == mask.sum()


def test_polygons_hold_exactly_the_middles_of_their_pixels(output, folder):
    y, x = np.mgrid[: output.labels.shape[0], : output.labels.shape[1]] + 0.5
    features = json.loads((folder / "polygons.geojson").read_text())["features"]
    assert [feature["properties"]["segment"] for feature in features] == present(output)
    for feature in features:
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid and shape.geom_type == "MultiPolygon"
        inside = shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(x.shape)
        assert np.array_equal(inside, output.labels == feature["properties"]["segment"])
    ring = shapely.geometry.shape(features[1]["geometry"])
    assert [len(part.interiors) for part in ring.geoms] == [1]


def test_polygons_of_any_labels_hold_their_pixels():
    labels = np.random.default_rng(0).integers(0, 3, (17, 23))
    y, x = np.mgrid[:17, :23] + 0.5
    for feature in polygons(labels)["features"]:
        shape = shapely.make_valid(shapely.geometry.shape(feature["geometry"]))
        inside = shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(x.shape)
        assert np.array_equal(inside, labels == feature["properties"]["segment"])


def test_the_table_is_what_numpy_counts(output, image, folder):
    table = segment_table(output, image)
    for again in (
        pd.read_csv(folder / "segments.csv", index_col=0),
        pd.read_parquet(folder / "segments.parquet"),
    ):
        pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert table.index.tolist() == present(output) and table["share"].sum() == pytest.approx(1)
    for segment, row in table.iterrows():
        y, x = np.nonzero(output.labels == segment)
        assert row["area"] == len(y) and row["cx"] == pytest.approx(x.mean() + 0.5)
        assert [row[c] for c in ("x", "y", "width", "height")] == [
            x.min(),
            y.min(),
            x.max() - x.min() + 1,
            y.max() - y.min() + 1,
        ]
        np.testing.assert_allclose(row[["red", "green", "blue"]].astype(float), image[y, x].mean(0))
        np.testing.assert_allclose(row[["q0", "q1", "q2"]].astype(float), output.mask_embeddings[segment])


def test_cut_outs_are_transparent_around_the_segment(output, image, folder):
    crop = np.array(Image.open(folder / "crop_0001.png"))
    assert crop.shape == (10, 12, 4)
    assert np.array_equal(crop[..., 3] == 255, output.labels[2:12, 3:15] == 1)
    assert np.array_equal(crop[..., :3], image[2:12, 3:15])
    assert len(list(folder.glob("crop_*.png"))) == len(present(output))


def test_arrays_are_all_there(output, folder):
    numpy = np.load(folder / "arrays.npz")
    group = zarr.open_group(zarr.storage.ZipStore(folder / "arrays.zarr.zip"), mode="r")
    for name in ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "difference_maps"):
        np.testing.assert_array_equal(numpy[name], getattr(output, name))
        np.testing.assert_array_equal(group[name][:], getattr(output, name))


def test_prompts_point_into_their_segment(output, folder):
    found = json.loads((folder / "prompts.json").read_text())
    assert found == prompts(output.labels) and [one["segment"] for one in found] == present(output)
    for one in found:
        x, y = (int(c) for c in one["point"])
        assert output.labels[y, x] == one["segment"]
        x0, y0, x1, y1 = one["box"]
        inside = output.labels[y0:y1, x0:x1] == one["segment"]
        assert (
            inside.sum() == (output.labels == one["segment"]).sum()
            and inside[0].any()
            and inside[:, -1].any()
        )


def test_sam_s_processor_takes_them(output, image, folder):
    from transformers import SamImageProcessor, SamProcessor

    found = prompts(output.labels)
    processor = SamProcessor(SamImageProcessor())
    points, boxes = [[[one["point"]] for one in found]], [[one["box"] for one in found]]
    inputs = processor(Image.fromarray(image), input_points=points, input_boxes=boxes, return_tensors="pt")
    assert inputs["input_points"].shape == (1, len(found), 1, 2) and inputs["input_boxes"].shape == (
        1,
        len(found),
        4,
    )


def test_transformers_dictionary_is_that_of_its_own_post_processing(output):
    found = to_transformers(output)
    assert found["segmentation"].dtype == torch.int32 and found["segmentation"].min() == 1
    assert [info["id"] - 1 for info in found["segments_info"]] == present(output)
    assert set(found["segments_info"][0]) == {"id", "label_id", "was_fused", "score"}


def test_pictures_and_labels_of_other_types(output, image, tmp_path):
    """Grey and transparent pictures, and labels as a PNG holds them, up to the last of a byte."""
    for mode in ("L", "RGBA", "P"):
        write_formats(output, Image.fromarray(image).convert(mode), tmp_path / mode, ["table", "crops"])
        assert Image.open(tmp_path / mode / "crop_0001.png").size == (12, 10)
    labels = np.array([[254, 255]], np.uint8)
    assert [one["segment"] for one in prompts(labels)] == [254, 255]


def test_more_segments_than_a_palette_has_are_refused_before_anything_is_written(image, tmp_path):
    many = np.arange(300, dtype=np.int32).reshape(15, 20)
    other = EmerDiffOutput(
        many, many, np.ones((300, 4, 6), bool), np.zeros((300, 2), np.float32), None, {}, {}
    )
    with pytest.raises(ValueError, match="there are 300 segments; leave 'palette' out"):
        write_formats(other, image[:15, :20], tmp_path / "new", ["coco", "palette"])
    assert not (tmp_path / "new").exists()
    write_formats(other, image[:15, :20], tmp_path / "new", ["coco", "polygons", "table"])


def test_equal_segmentations_make_equal_files(output, image, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_formats(output, image, tmp_path, FORMATS)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(formats=["cocoa"]), "format='cocoa' is unknown .did you mean 'coco'"),
        (dict(formats="coco"), "formats='coco' is one string; give a list of"),
        (
            dict(image=np.zeros((5, 5, 3), np.uint8)),
            "the labels are .20, 30.; pass the one that was segmented",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(output, image, tmp_path, change, message):
    given = dict(image=image, formats=["coco"]) | change
    with pytest.raises(ValueError, match=message):
        write_formats(output, given["image"], tmp_path / "new", given["formats"])
    assert not (tmp_path / "new").exists()
