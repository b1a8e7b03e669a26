"""Sample photographs are images wherever one is taken."""

import numpy as np
import skimage.data
from sklearn.datasets import load_sample_image

from emerdiff_lib.datasets.images import find_images, one_image
from emerdiff_lib.images import SAMPLES, load_image
from emerdiff_lib.runs.keys import image_key

from .conftest import refusal


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
