"""Settings check themselves, go to JSON and back, and resolve in one place."""

import json

import numpy as np
import pytest

from emerdiff_lib.settings import MODES, NAMES, REQUIRED, Settings, layered

BASE = dict(processing_resolution=64, num_masks=3, feature_layer="a", modulation_layer="b")


def test_to_json_and_back():
    settings = Settings(**BASE, mode="fast", denoising_steps=7, filter_sigma=0.25)
    flat = settings.to_dict()
    assert Settings(**json.loads(json.dumps(flat))) == settings and hash(settings)  # frozen
    assert set(flat) == set(NAMES) and len(NAMES) == len(set(NAMES)) and set(REQUIRED) == set(BASE)


def test_a_given_value_wins_over_the_mode_over_own_over_family():
    family, own = BASE | {"denoising_steps": 9, "num_masks": 1}, {"num_masks": 2, "one_sided": False}
    flat = layered({"mode": "fast", "num_parts": 4, "num_masks": None}, own, family)
    assert flat["denoising_steps"] == MODES["fast"]["denoising_steps"] and flat["one_sided"] is True
    assert flat["num_parts"] == 4 and flat["num_masks"] == 2 and flat["processing_resolution"] == 64
    assert layered({"mode": "exact"}, own | {"mode": "fast"}, family) == family | own | {"mode": "exact"}
    assert layered({"num_parts": 4}, {"mode": "fast"})["readout"] == "latents"


def test_another_mode_takes_back_what_the_one_before_had_set():
    fast = Settings(**layered({"mode": "fast", "filter_sigma": 0.5}, BASE))
    exact = fast.replace(mode="exact")
    assert exact == Settings(**BASE, filter_sigma=0.5)
    assert exact.replace(mode="fast") == fast and exact.replace(mode="exact", num_masks=None) == exact


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'modulation_strength'"):
        layered({"modulation_strenght": 3}, BASE)
    with pytest.raises(ValueError, match="mode='fats' is unknown .did you mean 'fast'"):
        Settings(**BASE).replace(mode="fats")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), np.float32("inf"), 10**400, -0.5, 0, True, "1", "", [3], None, 1j, {}],
    ids=repr,
)
def test_no_other_strength_than_a_finite_positive_number_gets_through(value):
    with pytest.raises(ValueError, match="modulation_strength="):
        Settings(**BASE, modulation_strength=value)
    assert type(Settings(**BASE, modulation_strength=3).modulation_strength) is float
