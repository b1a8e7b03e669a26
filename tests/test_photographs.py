"""Photographs: samples, which are images wherever one is taken, and the streets model."""

import numpy as np
import pytest
import skimage.data
from PIL import Image
from sklearn.datasets import load_sample_image

from emerdiff_lib import load_pipeline, loading
from emerdiff_lib.datasets.images import find_images, one_image
from emerdiff_lib.images import SAMPLES, load_image
from emerdiff_lib.runs.keys import image_key

from .conftest import refusal, seeded


def test_a_photograph_by_name():
    assert np.array_equal(load_image("sample:temple"), load_sample_image("china.jpg"))
    sample = one_image("sample:coffee")
    assert np.array_equal(sample.image, skimage.data.coffee()) and sample.credit == "Rachel Michetti, CC0"
    assert sample.record == "" and sample.scene is None and one_image("toyscapes:3").credit == ""
    assert (sample.model, one_image("toyscapes:3").model) == ("streets", "toyscapes")


def test_all_of_them():
    samples = find_images("sample:all")
    assert [sample.record for sample in samples] == list(SAMPLES) and all(sample.credit for sample in samples)
    assert len({image_key(sample)["image"] for sample in samples}) == len(SAMPLES)
    assert all(sample.image.mode == "RGB" for sample in samples)
    said = [refusal(lambda look=look: look("sample:tempel")) for look in (load_image, find_images)]
    assert all("'temple'" in sentence for sentence in said)


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
    ddim = pipe.invert(Image.fromarray(picture), "ddim", 481, processing_resolution=80)
    assert pipe.resolve(ddim).denoising_steps is None  # its own are DDPM's
    assert pipe.modulate(pipe.cluster(ddim, 2)).settings.denoising_steps is None
    assert "needs inversion='ddpm'" in refusal(lambda: pipe.resolve(ddim, denoising_steps=2))
    out = pipe(Image.fromarray(picture), 2, processing_resolution=80, generator=seeded())
    upper, lower = out.labels[:30], out.labels[42:]
    assert (upper == np.median(upper)).mean() > 0.8 and (lower == np.median(lower)).mean() > 0.8
    assert np.median(upper) != np.median(lower)


def test_a_package_may_leave_the_streets_model_out(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "STREETS_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="not in this installation .* allow to leave out"):
        load_pipeline("streets")
