"""The world under a domain shift keeps exact labels; features and correspondence are told apart."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from emerdiff_lib import Toyscapes
from emerdiff_lib.evaluation import domain_shift
from emerdiff_lib.toyscapes.shifts import COARSE_UNSEEN, SHIFTS, UNSEEN, zoomed

SEEDS = (3, 46, 401)
QUICK = {"num_masks": 3, "modulation_timestep": 21, "feature_timestep": 21, "noise_ensemble_size": 1}


def scenes(shift):
    return [Toyscapes("test", shift=shift)[seed] for seed in SEEDS]


@pytest.mark.parametrize("name", [name for name in SHIFTS if name != "as trained"])
def test_only_what_is_shifted_changes(name):
    for before, after in zip(scenes("as trained"), scenes(name), strict=True):
        assert after.image.size == before.image.size and after.image.tobytes() != before.image.tobytes()
        assert after.image.tobytes() == Toyscapes("test", shift=name)[before.seed].image.tobytes()
        if SHIFTS[name].keeps_labels:
            assert np.array_equal(after.labels, before.labels) and after.caption == before.caption
        else:
            assert not np.array_equal(after.labels, before.labels)


def test_swapped_textures_change_what_has_a_texture_and_nothing_else():
    for before, after in zip(scenes("as trained"), scenes("textures swapped"), strict=True):
        changed = (np.asarray(before.image) != np.asarray(after.image)).any(-1)
        for name in ("sky", "cloud", "sun", "car", "wheel", "window", "sail"):
            # a cell's breadth inside: pixels are means of 2 × 2 samples, whose neighbours may wear a texture
            inside = ~binary_dilation(before.labels != Toyscapes.class_names.index(name), iterations=2)
            assert not changed[inside].any(), name
        assert changed[before.labels == Toyscapes.class_names.index("grass")].mean() > 0.5


def test_unseen_objects_have_labels_of_their_own_and_leave_the_rest_alone():
    for before, after in zip(scenes("as trained"), scenes("unseen objects"), strict=True):
        new = after.labels == UNSEEN
        assert 0.01 < new.mean() < 0.4 and np.array_equal(new, after.coarse_labels == COARSE_UNSEEN)
        far = ~binary_dilation(new, iterations=2)  # at their rim, a label is the majority of four samples
        assert np.array_equal(after.labels[far], before.labels[far])
        assert np.array_equal(np.asarray(before.image)[far], np.asarray(after.image)[far])


def test_lines_are_where_labels_change():
    for scene in scenes("line drawing"):
        dark = np.asarray(scene.image)[..., 0] < 128
        edges = np.zeros_like(dark)
        edges[:, :-1] |= scene.labels[:, :-1] != scene.labels[:, 1:]
        edges[:-1] |= scene.labels[:-1] != scene.labels[1:]
        assert binary_dilation(dark, iterations=2)[edges].mean() > 0.97 and 0.01 < dark.mean() < 0.3


def test_a_window_keeps_its_centre_and_shows_the_same_world_nearer():
    left, top, extent = zoomed(0.2, 0.1, 0.6, 0.5)
    assert (left + extent / 2, top + extent / 2, extent) == pytest.approx((0.5, 0.4, 0.3))
    for before, near in zip(scenes("as trained"), scenes("twice as near"), strict=True):
        enlarged = np.kron(before.labels[32:96, 32:96], np.ones((2, 2), int))
        assert (enlarged == near.labels).mean() > 0.9


def test_unknown_shifts_are_named():
    with pytest.raises(ValueError, match="'line drawing'"):
        Toyscapes("test", shift="fog")
    with pytest.raises(ValueError, match="'line drawing'"):
        Toyscapes.from_seed(3, shift="fog")
    with pytest.raises(ValueError, match="'features', 'correspondence'"):
        domain_shift.gain([], "colour")


def test_true_masks_are_the_majority_of_their_cells():
    labels = np.repeat(np.repeat([[0, 2], [2, 7]], 4, 0), 4, 1)
    labels[0, 0] = 7
    masks = domain_shift.true_masks(labels, (2, 2), 8)
    assert masks.astype(int).tolist() == [[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]]


def test_retention_by_hand():
    """Masks that separate two classes perfectly against masks that do not separate them at all."""
    right, wrong = [[4, 0], [0, 4]], [[4, 4], [0, 0]]
    perfect = {"own cells": right, "position cells": wrong, "boundary F": {"bilinear": 0.5, "modulated": 0.9}}
    blind = perfect | {"own cells": wrong}
    blurred = perfect | {"boundary F": {"bilinear": 0.5, "modulated": 0.6}}
    assert domain_shift.gain([perfect], "features") == pytest.approx(1 - 0.25)  # (4/8 + 0) / 2 for the one segment
    assert domain_shift.retention([blind] * 3, [perfect] * 3, "features", 20) == (0, 0, 0)
    assert domain_shift.retention([blind] * 3, [perfect] * 3, "correspondence", 20) == (1, 1, 1)
    assert domain_shift.retention([blurred] * 3, [perfect] * 3, "correspondence", 20) == pytest.approx((0.25,) * 3)
    assert domain_shift.surplus([blurred] * 3, [perfect] * 3, 20) == pytest.approx((0.75,) * 3)
    assert domain_shift.surplus([blind] * 3, [perfect] * 3, 20) == (-1, -1, -1)


def test_a_run_goes_on_and_tells_its_stages_apart(pipe, tmp_path, monkeypatch):
    calls, evaluate = [], domain_shift.evaluate_scene
    monkeypatch.setattr(
        domain_shift, "evaluate_scene", lambda pipe, scene, **k: calls.append(scene.seed) or evaluate(pipe, scene, **k)
    )
    names = ["as trained", "unseen objects"]
    found = domain_shift.run(pipe, names, range(2), tmp_path, QUICK, progress=list)
    assert calls == [0, 0, 1, 1] and domain_shift.run(pipe, names, range(2), tmp_path, QUICK, progress=list) == found
    assert len(calls) == 4
    for results, shift in ((found[name], name) for name in names):
        for result, seed in zip(results, range(2), strict=True):
            truth = Toyscapes("test", shift=shift)[seed].coarse_labels
            for kind in ("own", "true bilinear", "true modulated", "true guided"):
                assert np.array_equal(np.sum(result[kind], 0), np.bincount(truth.ravel(), minlength=11))
            assert np.sum(result["own cells"]) == np.sum(result["position cells"]) == 16 * 16
            assert result["true modulated"] != result["true bilinear"]
    with pytest.raises(ValueError, match="other settings"):
        domain_shift.run(pipe, names, range(1), tmp_path, QUICK | {"num_masks": 4}, progress=list)
