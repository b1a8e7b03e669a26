"""The cost model against closed forms, and the naive implementation against exact mode."""

import numpy as np
import pandas as pd
import pytest
import torch

from emerdiff_lib import Toyscapes
from emerdiff_lib.assignment import assign_bilinear
from emerdiff_lib.benchmark import front, measure, reference, stable_diffusion, words
from emerdiff_lib.benchmark.costs import Cost, Machine, count, modulation_cost
from emerdiff_lib.evaluation.metrics import boundary_scores
from emerdiff_lib.experiments.names import (
    BILINEAR,
    BILINEAR_GUIDED,
    EMERDIFF,
    EMERDIFF_FAST,
    EMERDIFF_GUIDED,
    EMERDIFF_PIXEL,
    PIXELS_GUIDED,
)
from emerdiff_lib.settings import Perturbation, Shortcuts

from .conftest import seeded

MACHINE = Machine("test", {"float32": 1e9, "bfloat16": 2e9}, 1e9)


# -- the cost model ---------------------------------------------------------------------------------------------------


def test_products_and_convolutions_are_counted_as_by_hand():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    cost = count(lambda: a @ b)
    assert (cost.flops, cost.bytes) == (2 * 3 * 5 * 7, 4 * (15 + 35 + 21))
    layer = torch.nn.Conv2d(4, 6, 3, padding=1, bias=False)
    assert count(lambda: layer(torch.ones(2, 4, 8, 8))).flops == 2 * 2 * 8 * 8 * 6 * 4 * 9
    assert count(lambda: a.T).bytes == 0  # a view moves nothing


def test_roofline_takes_the_longer_of_the_two():
    cost = Cost([(10**9, 10), (10, 10**9)])
    assert cost.seconds(MACHINE, torch.float32) == pytest.approx(2.0)
    assert cost.seconds(MACHINE, torch.bfloat16) == pytest.approx(1.5)
    assert (cost + cost).flops == (cost * 2).flops == 2 * 10**9 + 20


def test_a_machine_is_measured_in_the_dtypes_asked_for():
    machine = Machine.measure("cpu", [torch.float32, torch.float16], size=64, repeats=1)
    assert set(machine.flops_per_second) == {"float32", "float16"}
    assert machine.rate(torch.float16) > 0 and machine.bytes_per_second > 1e7


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_savings_show_in_the_count(pipe, mode):
    shortcuts = pipe.resolve(mode=mode).shortcuts
    push = lambda t: pipe.resolve(modulation_timestep=t).perturbation
    spent = lambda k, t: modulation_cost(
        pipe.denoiser(), pipe.decode, (8, 32, 32), (16, 16), k, push(t), 4, shortcuts
    )
    row = count(lambda: pipe.denoiser().unet_output(torch.ones(1, 8, 32, 32), 1)).flops
    if mode == "exact":
        naive = 2 * (2 * 4 + 1) * row + 8 * count(lambda: pipe.decode(torch.ones(1, 8, 32, 32))).flops
        assert 0.3 < spent(4, 21).flops / naive < 0.9  # of two steps, half of the first is shared
        assert spent(8, 21).flops == 2 * spent(4, 21).flops
        assert spent(4, 41).flops > 1.3 * spent(4, 21).flops
    else:
        assert spent(8, 481).flops == spent(8, 281).flops  # whatever t_m


def test_shapes_alone_give_the_same_count():
    """On the meta device, where nothing is computed, Stable Diffusion's size: 860 M parameters, 0.8 TFLOP per row."""
    unet, vae = stable_diffusion.networks(torch.bfloat16, "meta")
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    denoiser = stable_diffusion.denoiser(unet)
    row = count(lambda: denoiser.unet_output(torch.empty(1, 4, 64, 64, device="meta"), 1)).flops
    assert row == pytest.approx(0.80e12, rel=0.02)
    decode = stable_diffusion.decoder(vae)
    push = Perturbation("up_blocks.1.attentions.2.transformer_blocks.0.attn2", 21)
    two = modulation_cost(denoiser, decode, (4, 64, 64), (16, 16), 2, push, 2)
    decoding = count(lambda: decode(torch.empty(4, 4, 64, 64, device="meta"))).flops
    assert 5 * 0.7 * row < two.flops - decoding < (2 * 5) * row
    published = stable_diffusion.published_settings(unet, vae)
    small = published.replace(num_masks=2, modulation_timestep=21)
    assert published.features.num_masks == 30 and published.perturbation.modulation_timestep == 281
    assert stable_diffusion.predicted(small, unet, vae).flops == two.flops


# -- the reference point ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_exact_mode_equals_the_reference_point_on_the_default_layer(pipe, scene):
    """Maps and labels, with the checkpoint's own settings but for a short t_m, from the same coarse masks."""
    coarse = measure.coarse_for_reference(pipe, scene.image, num_masks=4, modulation_timestep=61)
    usual, push = pipe.default_settings(), coarse.settings.perturbation
    assert push.modulation_layer == usual["modulation_layer"] == usual["feature_layer"]
    expected = reference.difference_maps(
        pipe.denoiser(), pipe.decode, coarse.trajectory, coarse.masks, push.modulation_layer, 61, 10.0
    )
    exact = pipe.respond(coarse)
    assert expected.amax() > 0.05 and exact.settings.shortcuts == Shortcuts()
    torch.testing.assert_close(exact.difference_maps, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(measure.reference_maps(pipe, coarse), expected, rtol=0, atol=0)
    labels = pipe.assign(exact, filter_sigma=0.0)
    assert (labels == expected.argmax(0).numpy()).mean() > 0.999
    assert len(np.unique(labels)) == 4  # the comparison is not one of a single label


def test_the_comparison_starts_from_what_the_pipeline_finds(pipe, scene):
    settings = dict(num_masks=4, modulation_timestep=41)
    coarse = measure.coarse_for_reference(pipe, scene.image, seed=3, **settings)
    output = pipe(scene.image, generator=seeded(3), **settings)
    np.testing.assert_array_equal(coarse.masks, output.coarse_masks)
    table = measure.against_reference(pipe, coarse, MACHINE, repeats=1)
    assert table.index.tolist() == [measure.REFERENCE, EMERDIFF, EMERDIFF_PIXEL, EMERDIFF_FAST]
    exact = table.loc[EMERDIFF]
    assert table.loc[measure.REFERENCE, ["times faster", "same labels", "difference"]].tolist() == [1, 1, 0]
    assert exact["same labels"] > 0.999 and 0 < exact["difference"] < 1e-3
    assert table["same labels"].isna().tolist() == [False, False, True, True]  # segments of their own
    costs = {mode: measure.cost_of(pipe, coarse, mode=mode).flops for mode in ("exact", "pixel", "fast")}
    assert table["GFLOP"].tolist()[1:] == pytest.approx([flops / 1e9 for flops in costs.values()])
    assert exact["utilisation"] == pytest.approx(exact["GFLOP"] / exact["seconds"])  # of 1 GFLOP/s


def test_curves_vary_one_thing_at_a_time(pipe, scene):
    table = measure.scaling(
        pipe, scene.image, [2, 3], [64], [21, 41], repeats=1, num_masks=2, modulation_timestep=21
    )
    assert len(table) == 3 * 5 and set(table["method"]) == {EMERDIFF, EMERDIFF_PIXEL, EMERDIFF_FAST}
    assert table[table.varied == "denoising steps"]["value"].tolist() == [2, 2, 2, 3, 3, 3]
    assert (table["seconds"] > 0).all()


# -- the front ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(pipe, tmp_path_factory):
    variants = front.choose([EMERDIFF_FAST, EMERDIFF_GUIDED, "one-sided"])
    return front.evaluate(
        pipe, [0, 1], tmp_path_factory.mktemp("front"), variants, num_masks=3, modulation_timestep=41
    )


def test_front_is_relative_to_exact(results):
    table = front.front(results)
    assert set(table.index) == {
        BILINEAR,
        BILINEAR_GUIDED,
        PIXELS_GUIDED,
        EMERDIFF,
        EMERDIFF_GUIDED,
        "one-sided",
        EMERDIFF_FAST,
    }
    assert table.loc[EMERDIFF, ["times faster", "as exact"]].tolist() == [1, 1]
    assert table.loc[BILINEAR, "gain"] == 0 and 0.2 < table.loc["one-sided", "as exact"] < 1
    assert table.loc[[PIXELS_GUIDED, EMERDIFF_FAST], "as exact"].isna().all()
    assert table["s / image"].is_monotonic_decreasing
    kinds = table["kind"].to_dict()
    assert kinds[BILINEAR_GUIDED] == kinds[PIXELS_GUIDED] == front.KINDS[0]
    assert [kinds[n] for n in ("one-sided", EMERDIFF_GUIDED, EMERDIFF_FAST)] == list(front.KINDS[1:])


def test_what_denoising_adds_to_a_filter_is_the_difference_of_the_two(results):
    table, differences = front.front(results), front.beyond_filters(results)
    assert set(differences.index) == {
        (name, rival)
        for name in (EMERDIFF, EMERDIFF_GUIDED, EMERDIFF_FAST)
        for rival in (BILINEAR_GUIDED, PIXELS_GUIDED)
    }
    for name, rival in differences.index:
        row = differences.loc[(name, rival)]
        for score in ("mIoU", "boundary F"):
            assert row[score] == pytest.approx(table.loc[name, score] - table.loc[rival, score])
            assert row[f"{score} low"] <= row[score] <= row[f"{score} high"]
    said = words.of_filters(differences)
    assert len(said) == 4 and all("minus guided-filtered" in one and "in boundary F" in one for one in said)


def test_variants_are_what_the_pipeline_gives(pipe, results):
    """Quality of the rows against whole calls of the pipeline on the same picture."""
    scene, settings = Toyscapes.from_seed(1), dict(num_masks=3, modulation_timestep=41)
    row = {r["variant"]: r for r in results if r["scene"] == 1}
    call = lambda **more: pipe(scene.image, generator=seeded(1), **settings | more)
    score = lambda labels: boundary_scores(labels, scene.labels, 2)[2]
    for name, more in (
        (EMERDIFF, {}),
        (EMERDIFF_FAST, {"mode": "fast"}),
        (EMERDIFF_GUIDED, {"guide_radius": 1.5}),
    ):
        assert row[name]["boundary F"] == score(call(**more).labels), name
    coarse = pipe.coarse(scene.image, generator=seeded(1), **settings)
    assert row[BILINEAR]["boundary F"] == score(assign_bilinear(coarse.masks, coarse.size))


def test_sentences_follow_from_the_front():
    names = [EMERDIFF, EMERDIFF_FAST, "6 steps", BILINEAR_GUIDED, BILINEAR]
    table = pd.DataFrame(
        {
            "s / image": [4.0, 0.5, 1.0, 0.2, 0.1],
            "times faster": [1.0, 8.0, 4.0, 20.0, 40.0],
            "mIoU": [60.0, 62.0, 58.0, 61.0, 50.0],
            "boundary F": [80.0, 70.0, 79.0, 72.0, 55.0],
            "gain": [10.0, 12.0, 8.0, 11.0, 0.0],
            "low": 0.0,
            "high": 20.0,
            "as exact": 0.9,
            "share of gain": [1.0, 1.2, 0.8, 1.1, 0.0],
        },
        index=names,
    )
    table["kind"] = [front.kind_of(name) for name in names]
    said = " ".join(words.of_front(table))
    assert (
        "gains +10.0 [+0.0, +20.0] points" in said
        and "gains +11.0 on those masks without any denoising" in said
    )
    assert "Fast mode takes 0.50 s, 8.0 times faster (mIoU 62.0, boundary F 70.0)" in said
    assert f"Best mIoU: {EMERDIFF_FAST}" in said and f"Best boundary F: {EMERDIFF} (80.0 at 4.00 s)" in said
    assert "6 steps is the fastest that keeps at least 80 %" in said and "(80%, 4.0 times" in said
    table["gain"], table["share of gain"] = -table["gain"], np.nan
    table["low"] = np.nan  # of a single scene
    said = " ".join(words.of_front(table))
    assert "keeps at least" not in said and "gains -10.0 points" in said and "nan" not in said


def test_sentences_about_curves_compare_their_ends():
    rows = [
        ("masks K", k, name, seconds * k) for k in (2, 8) for name, seconds in ((EMERDIFF, 1.0), ("x", 0.1))
    ]
    rows += [("image side in pixels", side, EMERDIFF, side**2) for side in (64, 96)] + [
        ("steps", 2, EMERDIFF, 1)
    ]
    curves = pd.DataFrame(rows, columns=["varied", "value", "method", "seconds"])
    first, second = words.of_curves(curves)  # nothing to say about a single point
    assert first.startswith(
        "Masks K from 2 to 8 (4.0 times as many): EmerDiff takes 4.0 times as long and x takes 4"
    )
    assert "from 64 to 96 (2.2 times as many pixels): EmerDiff takes 2.2 times as long." in second


def test_arithmetic_adds_up(pipe, scene):
    coarse = measure.coarse_for_reference(pipe, scene.image, num_masks=4, modulation_timestep=21)
    gflop = measure.arithmetic(pipe, coarse)
    naive = gflop["one by one: 9 rows, 2 steps"]
    assert naive == pytest.approx(18 * gflop["one U-Net row"] + 8 * gflop["one decoding"])
    saved = 1 - gflop[EMERDIFF] / naive
    assert 0 < saved < 0.5 and f"saves {saved:.0%} of" in words.of_arithmetic(gflop)


def test_timesteps_are_spread_up_to_the_last(pipe):
    assert measure.spread_timesteps(pipe, 481) == [141, 321, 481]
    assert measure.spread_timesteps(pipe, 21, 3) == [1, 21] and measure.spread_timesteps(pipe, 1) == [1]


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="variant='6 step' is unknown .did you mean '6 steps'"):
        front.choose(["6 step"])
    assert list(front.choose(["6 steps"])) == [EMERDIFF, "6 steps"] and len(front.choose()) > 10
