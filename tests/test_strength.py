"""λ by picture: kinds of picture are what they are called, rules choose what they say."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emerdiff_lib import Toyscapes
from emerdiff_lib.experiments import strength
from emerdiff_lib.experiments.ablations import Bench

from .test_ablations import QUICK


def pictures(scores: dict[int, tuple], rms: dict[int, float], lights: dict[int, str]) -> pd.DataFrame:
    """A table as by_picture makes it; seeds to mIoU under λ = 1, 10, 100."""
    rows = [
        {"seed": seed, "λ": value, "mIoU": float(score), "boundary F": 1.0, "layer RMS": rms[seed]}
        | {"response": value, "margin": -value, "agreement": 0.0, "edge contrast": score}
        | {"time of day": lights[seed], "object size": seed / 10, "texture contrast": 0.1}
        for seed, scored in scores.items()
        for value, score in zip((1.0, 10.0, 100.0), scored, strict=True)
    ]
    return pd.DataFrame(rows)


SCORES = {0: (5, 9, 1), 1: (8, 2, 1), 2: (1, 2, 6)}
TABLE = pictures(SCORES, {0: 1.0, 1: 1.0, 2: 10.0}, {0: "at day", 1: "at night", 2: "at day"})


def test_kinds_of_picture():
    kinds = [strength.kind_of_picture(Toyscapes("test")[seed]) for seed in range(12)]
    for seed, kind in enumerate(kinds):
        assert Toyscapes("test")[seed].caption.endswith(kind["time of day"]) and 0 <= kind["object size"] < 1
    blurred = strength.kind_of_picture(Toyscapes("test", shift="blur, 3 px")[3])
    assert blurred["texture contrast"] < 0.5 * kinds[3]["texture contrast"]


def test_hints_by_hand():
    """Two maps on a picture that is black on the left and white on the right."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = 255
    labels = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, 0)
    maps = np.stack([np.where(labels == 0, 0.4, 0.1), np.where(labels == 1, 0.8, 0.3)])
    bilinear = labels.copy()
    bilinear[:, 3] = 1
    hints = strength.label_free_hints(Image.fromarray(picture), maps, labels, bilinear)
    assert hints["response"] == pytest.approx((0.4 + 0.8) / 2)
    assert hints["margin"] == pytest.approx((0.1 / 0.4 + 0.7 / 0.8) / 2) and hints["agreement"] == 7 / 8
    assert hints["edge contrast"] == pytest.approx(
        4
    )  # all of the gradient is in the two columns of eight at the edge
    alone = strength.label_free_hints(Image.fromarray(picture), maps[:1], 0 * labels, 0 * labels)
    assert alone["margin"] == 1 and alone["edge contrast"] == 0


def test_rules_by_hand():
    rules = strength.rules(TABLE)
    expected = {
        "λ = 1": 14,
        "λ = 10": 13,
        "λ = 100": 8,
        "relative norm": 9 + 2 + 6,
        "best in hindsight": 23,
        "largest edge contrast": 23,
        "largest response": 8,
        "largest margin": 14,
    }
    for name, total in expected.items():
        assert rules.loc[name, "mIoU"] == pytest.approx(total / 3), name
    assert rules.loc["best in hindsight", "median λ"] == 10


def test_kinds_are_compared_by_hand():
    table = strength.best_by_kind(TABLE)
    assert table.loc[("time of day", "at day"), "scenes"] == 2
    assert table.loc[("time of day", "at day"), "λ 10"] == 5.5
    assert table.loc[("time of day", "at night"), "best λ"] == 1
    assert table.loc[("object size", "large objects"), "scenes"] == 1  # the others are not above the median
    assert table.loc[("object size", "small objects"), "λ 1"] == 6.5
    assert (table["could be"] == "").all()  # so few scenes say nothing


def kinds_apart(night: tuple):
    """Five scenes by day that are best at λ = 1 or 10, and five by night."""
    scores = {s: ((5, 4, 1), (4, 5, 1))[s % 2] for s in range(5)} | {s: night for s in range(5, 10)}
    lights = {s: "at day" if s < 5 else "at night" for s in scores}
    return pictures(scores, dict.fromkeys(scores, 1.0), lights)


def test_groups_need_different_strengths_or_cannot_be_told():
    table = strength.best_by_kind(kinds_apart((1, 2, 9)))["could be"]
    assert table["time of day", "at day"] == "1, 10" and table["time of day", "at night"] == "100"
    words = strength.describe(kinds_apart((1, 2, 9)))[-1]
    assert words == "Pictures need different λs by time of day, object size (column “could be”)."
    assert strength.describe(kinds_apart((1, 9, 2)))[-1].startswith("No way of grouping")


def test_words_follow_from_the_numbers():
    words = strength.describe(TABLE)
    assert words[0].startswith("λ = 1 is the best fixed λ; within one point of it are 1, 10.")
    assert f"{(23 - 14) / 3:+.1f} points over it" in words[1]
    assert "“largest edge contrast”: +3.0" in words[2] and "900 %" in words[3]
    assert len(words) == 4  # neither ranks nor groups of three pictures mean anything


def test_from_results_to_pictures(pipe):
    scene, usual = Toyscapes("test")[3], pipe.resolve(**QUICK).to_dict()
    bench = Bench(pipe, scene, usual)
    results = {v: [bench.evaluate(usual | {"modulation_strength": v})] for v in (1.0, 100.0)}
    table = strength.by_picture(results, [scene])
    assert len(table) == 2 and table["response"].is_monotonic_increasing and (table["seed"] == 3).all()
    assert table["margin"].between(0, 1).all() and table["agreement"].between(0, 1).all()
    # what λ is added to, by a hook of our own
    kept = []
    layer = pipe.unet.get_submodule(usual["modulation_layer"])
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    pipe.denoiser().unet_output(bench.trajectory.latents[21], 21)
    handle.remove()
    assert table["layer RMS"].to_numpy() == pytest.approx(kept[0].square().mean().sqrt().item(), rel=1e-4)
