"""Notebooks 06, 07 and 14: what cannot be evaluated is said in one sentence, before anything is computed."""

import re

import pytest

from .test_notebooks import first_cells

EVALUATION, LOST, MASKS = "06_evaluation", "07_small_objects_and_boundaries", "14_how_many_masks"


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        (EVALUATION, {"limit": 0}, r"limit=0 is not possible; it is a whole number of at least 1\."),
        (EVALUATION, {"fit_limit": 0}, r"fit_limit=0 is not possible; .*"),
        (
            EVALUATION,
            {"methods": ["EmerDif"]},
            r"method='EmerDif' is unknown \(did you mean 'EmerDiff'\?\); .*",
        ),
        (EVALUATION, {"methods": ["backbone k-means"]}, r'"backbone k-means" needs a backbone: .*'),
        (EVALUATION, {"dataset": "ade"}, r"Data set 'ade' is unknown; choose one of 'toyscapes', .*"),
        (EVALUATION, {"dataset": "ade20k"}, r"Data set 'ade20k' needs a root: .*"),
        (EVALUATION, {"dataset_options": {"order": 1}}, r"Data set 'toyscapes' has no option 'order'; .*"),
        (
            EVALUATION,
            {"split": "tests"},
            r"split='tests' is unknown to ToyscapesDataset; choose one of 'test', .*",
        ),
        (
            EVALUATION,
            {"settings": {"mode": "fast"}},
            r"settings cannot hold mode='fast', as modes are methods here: .*",
        ),
        (
            EVALUATION,
            {"settings": {"num_mask": 3}},
            r"setting='num_mask' is unknown \(did you mean 'num_masks'\?\); .*",
        ),
        (EVALUATION, {"num_masks": 4, "settings": {"num_masks": 3}}, r"num_masks is given twice, .*"),
        (EVALUATION, {"num_masks": 0}, r"num_masks=0 is not possible; it is a whole number of at least 1\."),
        (LOST, {"num_scenes": 0}, r"num_scenes=0 is not possible; it is a whole number from 1 to 800\."),
        (
            LOST,
            {"first_scene": 1000},
            r"first_scene=1000 is not possible; it is a whole number from 0 to 999\.",
        ),
        (
            LOST,
            {"first_scene": 990, "num_scenes": 24},
            r"num_scenes=24 is not possible; it is a whole number from 1 to 10\.",
        ),
        (LOST, {"more_masks": 0}, r"num_masks=0 is not possible; .*"),
        (MASKS, {"limit": 0}, r"limit=0 is not possible; .*"),
        (MASKS, {"candidates": [1, 2]}, r"candidate=1 is not possible; it is a whole number of at least 2\."),
        (MASKS, {"candidates": []}, r"candidates=\[\] is not possible; it is a list, .*"),
        (MASKS, {"picture": 1000}, r"picture=1000 is not possible; it is a whole number from 0 to 999\."),
        (
            MASKS,
            {"settings": {"num_parts": 20}},
            r"num_parts=20 is not possible here; leave num_parts out\.",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(name, given, sentence):
    error = first_cells(name, **given)
    assert isinstance(error, ValueError), error
    assert re.fullmatch(sentence, str(error)), str(error)
