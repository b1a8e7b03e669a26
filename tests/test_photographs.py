"""Photographs: the streets model, and images at another size."""

import numpy as np
import pytest
from PIL import Image

from emerdiff_lib import load_pipeline, loading
from emerdiff_lib.datasets import Resized, open_dataset

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
    folder = loading.STREETS_FOLDER
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
    monkeypatch.setattr(loading, "STREETS_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="not in this installation .* allow to leave out"):
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
