"""The cost model against closed forms, the naive implementation against exact mode, and the front of quality and cost."""

import numpy as np
import pytest
import torch

from emerdiff_lib import Toyscapes
from emerdiff_lib.assignment import assign_bilinear
from emerdiff_lib.benchmark import front, reference, stable_diffusion
from emerdiff_lib.benchmark.costs import Cost, Machine, count, run_times
from emerdiff_lib.evaluation.metrics import boundary_scores
from emerdiff_lib.studies.names import BILINEAR, EMERDIFF, EMERDIFF_FAST, EMERDIFF_GUIDED

from .conftest import run_cells, seeded

MACHINE = Machine("test", {torch.float32: 1e9, torch.bfloat16: 2e9}, 1e9)


# -- the cost model ---------------------------------------------------------------------------------------------------


def test_products_and_convolutions_are_counted_as_by_hand():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count(lambda: a @ b).operations == [(2 * 3 * 5 * 7, 4 * (15 + 35 + 21))]
    layer = torch.nn.Conv2d(4, 6, 3, padding=1, bias=False)
    assert count(lambda: layer(torch.ones(2, 4, 8, 8))).flops == 2 * 2 * 8 * 8 * 6 * 4 * 9
    assert count(lambda: a.T).operations == []  # a view moves nothing
    q, fused = torch.ones(1, 2, 6, 4), torch.nn.functional.scaled_dot_product_attention
    assert count(lambda: fused(q, q, q)).flops == 2 * (2 * 2 * 6 * 6 * 4)  # QKᵀ, and shares times V


def test_roofline_takes_the_longer_of_the_two():
    cost = Cost()
    cost.operations = [(10**9, 10), (10, 10**9)]
    assert cost.seconds(MACHINE, torch.float32) == pytest.approx(2.0)
    assert cost.seconds(MACHINE, torch.bfloat16) == pytest.approx(1.5)


def test_shapes_alone_give_the_count_of_stable_diffusion():
    """On the meta device, where nothing is computed: 860 M parameters, 0.8 TFLOP per row, 2.5 per decoding."""
    pipe = stable_diffusion.pipeline(torch.bfloat16, "meta")
    vae = pipe.vae
    assert sum(p.numel() for p in pipe.denoiser.parameters()) == 859_520_964
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    small = pipe.resolve(num_masks=2, modulation_timestep=21)
    flops = count(stable_diffusion.modulation(small, torch.bfloat16, "meta")).flops
    decoding = count(lambda: vae.decode(torch.empty(1, 4, 64, 64, dtype=torch.bfloat16, device="meta"))).flops
    # two steps of five rows, the first shared
    assert 5 * 0.7 * 0.80e12 < flops - 4 * decoding < 2 * 5 * 0.80e12


# -- the naive implementation -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_exact_mode_equals_the_naive_implementation_on_the_default_layer(pipe, scene):
    """Maps and labels, with the checkpoint's own settings but for a short t_m, from the same coarse masks."""
    trajectory = pipe.invert(scene.image, start_timestep=281, generator=(generator := seeded(3)))
    coarse = pipe.cluster(trajectory, num_masks=4, modulation_timestep=61, generator=generator)
    usual, settings = pipe.default_settings(), coarse.settings
    assert settings.modulation_layer == usual["modulation_layer"] == usual["feature_layer"]
    naive, exact = reference.modulate(pipe, coarse), pipe.modulate(coarse)
    assert naive.difference_maps.amax() > 0.05 and exact.settings.denoising_steps is None
    torch.testing.assert_close(exact.difference_maps, naive.difference_maps, rtol=1e-3, atol=1e-4)
    labels = pipe.assign(exact, filter_sigma=0.0)
    assert (labels == naive.difference_maps.argmax(0).numpy()).mean() > 0.999
    assert len(np.unique(labels)) == 4  # the comparison is not one of a single label


def test_memory_is_seen_at_its_peak():
    device = torch.device("cpu")
    cells = run_cells("11_efficiency", {"torch": torch}, "def largest_rise", "def peak_memory")
    peak_memory = cells["peak_memory"]
    repeated = lambda: run_times(lambda: torch.ones(2**24).sum(), device, repeats=20)
    assert 0.8 * 2**26 < peak_memory(repeated, device) < 2 * 2**26


# -- the front ----------------------------------------------------------------------------------------------------------


def test_variants_are_what_the_pipeline_gives(pipe, tmp_path):
    """Quality of the rows against whole calls of the pipeline on the same image."""
    scene, settings = Toyscapes.from_seed(1), dict(num_masks=3, modulation_timestep=41)
    variants = {name: front.VARIANTS[name] for name in (EMERDIFF_FAST, EMERDIFF_GUIDED)}
    results = front.evaluate(pipe, [0, 1], tmp_path, variants, **settings)
    found = {r["variant"]: r["boundary F"] for r in results if r["scene"] == 1}
    score = lambda labels: boundary_scores(labels, scene.labels, 2)[2]
    for name, more in (
        (EMERDIFF, {}),
        (EMERDIFF_FAST, {"mode": "fast"}),
        (EMERDIFF_GUIDED, {"guide_radius": 1.5}),
    ):
        assert found[name] == score(pipe(scene.image, generator=seeded(1), **settings, **more).labels), name
    coarse = pipe.cluster(scene.image, generator=seeded(1), **settings)
    assert found[BILINEAR] == score(assign_bilinear(coarse.masks, coarse.size))
