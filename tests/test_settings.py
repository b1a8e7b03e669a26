"""Settings check themselves, go to JSON and back, and resolve in one place."""

import dataclasses
import json

import pytest

from emerdiff_lib.checkpoints import resolve
from emerdiff_lib.settings import (
    MODES,
    NAMES,
    REQUIRED,
    Assignment,
    FeatureSettings,
    InversionSettings,
    Perturbation,
    Refinement,
    Settings,
    Shortcuts,
    layered,
)

KINDS = (FeatureSettings, InversionSettings, Perturbation, Shortcuts, Refinement, Assignment)
BASE = dict(processing_resolution=64, num_masks=3, feature_layer="a", modulation_layer="b")
UNKNOWN = dict(sample_size=8, in_channels=3, up_block_types=["UpBlock2D"], block_out_channels=[8])


def test_flat_names_are_unique_and_complete():
    names = [one.name for kind in KINDS for one in dataclasses.fields(kind)]
    assert len(names) == len(set(names)) and set(NAMES) == {*names, "mode"}
    assert set(REQUIRED) == set(BASE)


def test_to_json_and_back():
    settings = Settings.from_dict(BASE | {"mode": "fast", "denoising_steps": 7, "filter_sigma": 0.25})
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert hash(settings) == hash(Settings.from_dict(settings.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.mode = "exact"


def test_a_given_value_wins_over_the_mode_over_own_over_family():
    family, own = BASE | {"denoising_steps": 9, "num_masks": 1}, {"num_masks": 2, "one_sided": False}
    flat = layered({"mode": "fast", "num_parts": 4, "num_masks": None}, own, family)
    assert flat["denoising_steps"] == MODES["fast"]["denoising_steps"] and flat["one_sided"] is True
    assert flat["num_parts"] == 4 and flat["num_masks"] == 2 and flat["processing_resolution"] == 64
    exact = Settings.from_dict(flat).replace(mode="exact")
    assert exact.perturbation.modulation_strength == 10.0  # fast mode's is 3
    assert exact.shortcuts == Shortcuts() and exact.mode == "exact" and exact.features.num_masks == 2


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'modulation_strength'"):
        Settings.from_dict(BASE | {"modulation_strenght": 3})
    with pytest.raises(ValueError, match="mode='fats' is unknown .did you mean 'fast'"):
        Settings.from_dict(BASE).replace(mode="fats")


def test_what_is_missing_is_listed():
    with pytest.raises(ValueError, match=f"pass {', '.join(REQUIRED)} yourself"):
        resolve(UNKNOWN, 8, None)
    assert resolve(UNKNOWN, 8, BASE).features.num_masks == 3
    assert resolve(UNKNOWN, 8, BASE, num_masks=5).features.num_masks == 5


ODD = [float("nan"), float("inf"), -1, -0.5, 0, True, False, "1", "ten", "", [3], (), {}, None, 1j, object()]


@pytest.mark.parametrize("value", [*ODD, 10**400], ids=lambda v: type(v).__name__)
def test_no_other_strength_than_a_finite_positive_number_gets_through(value):
    with pytest.raises(ValueError, match="modulation_strength="):
        Perturbation("a", 1, value)
    assert Perturbation("a", 1, 3).modulation_strength == 3.0


def test_radius_and_sigma_have_bounds():
    assert Refinement(0, 0) == Refinement(0.0, 0.0)
    for bad in (-0.1, 101, float("nan"), "1", True):
        with pytest.raises(ValueError, match="guide_radius="):
            Refinement(1.0, bad)
