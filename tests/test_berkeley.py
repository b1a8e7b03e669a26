"""The region benchmark of Berkeley's photographs against other libraries and by hand, and the data set's layout."""

import numpy as np
import pytest
from skimage.metrics import variation_of_information
from sklearn.metrics import rand_score

from emerdiff_lib.datasets.berkeley import BSDS500
from emerdiff_lib.evaluation.berkeley import connected, ods_and_ois, region_scores

from .conftest import refusal

RNG = np.random.default_rng(0)


def test_scores_are_those_of_other_libraries():
    labels, people = RNG.integers(0, 5, (20, 30)), [RNG.integers(0, k, (20, 30)) for k in (3, 8)]
    for regions, (covering, rand, variation) in zip(people, region_scores(labels, people), strict=True):
        best = []
        for region in range(regions.max() + 1):
            inside = regions == region
            iou = [(inside & (labels == s)).sum() / (inside | (labels == s)).sum() for s in range(5)]
            best.append(inside.sum() * max(iou))
        assert covering == pytest.approx(sum(best) / labels.size)
        assert rand == pytest.approx(rand_score(regions.ravel(), labels.ravel()))
        assert variation == pytest.approx(sum(variation_of_information(regions, labels)))


def test_a_segment_in_two_places_is_two_regions():
    stripes = np.repeat([[0, 1, 0]], 2, 0)
    assert connected(stripes).tolist() == [[0, 1, 2], [0, 1, 2]]
    corners = np.array([[0, 1], [1, 0]])
    assert len(np.unique(connected(corners))) == 4


def test_one_parameter_for_all_and_one_for_each():
    person = lambda *rows: np.array(rows, float)
    first = {2: person([0.9, 0.5, 1.0]), 5: person([0.5, 0.9, 3.0])}
    second = {2: person([0.2, 0.6, 4.0], [0.2, 0.6, 4.0]), 5: person([0.8, 0.7, 1.0], [0.6, 0.7, 3.0])}
    table = ods_and_ois([first, second])
    # covering: pairs of an image and a person count alike; the others: images do
    assert table.loc["covering"].tolist() == pytest.approx([(0.5 + 2 * 0.7) / 3, (0.9 + 2 * 0.7) / 3])
    assert table.loc["PRI"].tolist() == pytest.approx([0.8, 0.8])
    assert table.loc["VI"].tolist() == pytest.approx([2.5, 1.5])


def test_the_official_layout_is_read(berkeley):
    (one,) = BSDS500(str(berkeley), "val")
    assert one.name == "101" and one.image.size == (48, 32)
    assert [regions.max() for regions in one.annotations] == [0, 1] and one.annotations[0].min() == 0
    assert "Expected in BSDS500: data/images" in refusal(lambda: BSDS500(berkeley), FileNotFoundError)
    assert "split='validation' is unknown" in refusal(lambda: BSDS500(berkeley, "validation"))


def test_a_broken_annotation_is_named(berkeley):
    file = berkeley / "data/groundTruth/val/101.mat"
    file.write_bytes(file.read_bytes()[:100])
    assert "101.mat cannot be read" in refusal(lambda: BSDS500(berkeley, "val")[0])
