"""Notebooks 06, 07 and 14: what cannot be evaluated is said in one sentence, before anything is computed."""

import re

import pytest

from .test_notebooks import first_cells

EVALUATION, LOST, MASKS = "06_evaluation", "07_small_objects_and_boundaries", "14_how_many_masks"


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        (EVALUATION, {"fit_limit": 0}, "fit_limit=0 is not possible; it is a whole number of at least 1."),
        (EVALUATION, {"methods": ["EmerDif"]}, "method='EmerDif' is unknown (did you mean 'EmerDiff'?); …"),
        (EVALUATION, {"methods": ["backbone k-means"]}, '"backbone k-means" needs a backbone: …'),
        (EVALUATION, {"dataset": "ade"}, "dataset='ade' is unknown (did you mean 'ade20k'?); …"),
        (EVALUATION, {"dataset_options": {"order": 1}}, "Data set 'toyscapes' has no option 'order'…"),
        (EVALUATION, {"settings": {"mode": "fast"}}, "settings cannot hold mode='fast', as modes are …"),
        (LOST, {"first_scene": 990, "num_scenes": 24}, "num_scenes=24 is not possible; … from 1 to 10."),
        (LOST, {"more_masks": 0}, "num_masks=0 is not possible; …"),
        (MASKS, {"candidates": [1, 2]}, "candidate=1 is not possible; it is a whole number of at least 2."),
        (MASKS, {"picture": 1000}, "picture=1000 is not possible; it is a whole number from 0 to 999."),
        (MASKS, {"settings": {"num_parts": 20}}, "num_parts=20 is not possible here; leave num_parts out."),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(name, given, sentence):
    error = first_cells(name, **given)
    assert isinstance(error, ValueError), error
    assert re.fullmatch(re.escape(sentence).replace("…", ".*"), str(error)), str(error)
