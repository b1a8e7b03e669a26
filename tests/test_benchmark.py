"""The cost model against closed forms, and the benchmark end to end on a small case."""

import json

import pytest
import torch

from emerdiff_lib import Toyscapes
from emerdiff_lib.benchmark import __main__ as command
from emerdiff_lib.benchmark import measure, stable_diffusion
from emerdiff_lib.benchmark.costs import Cost, Machine, count, modulation_cost
from emerdiff_lib.modulation import Shortcuts
from emerdiff_lib.pipeline import MODES

LAYER = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
MACHINE = Machine("test", {"float32": 1e9, "bfloat16": 2e9}, 1e9)


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


@pytest.mark.parametrize("shortcuts", [Shortcuts(), MODES["fast"]])
def test_savings_show_in_the_count(pipe, shortcuts):
    spent = lambda k, t: modulation_cost(
        pipe.denoiser(), pipe.decode, (8, 32, 32), (16, 16), k, LAYER, t, 4, shortcuts
    )
    row = count(lambda: pipe.denoiser().unet_output(torch.ones(1, 8, 32, 32), 1)).flops
    if shortcuts.coded_passes is None:
        naive = 2 * (2 * 4 + 1) * row + 8 * count(lambda: pipe.decode(torch.ones(1, 8, 32, 32))).flops
        assert 0.3 < spent(4, 21).flops / naive < 0.8  # of two steps, the first is mostly shared
        assert spent(8, 21).flops == 2 * spent(4, 21).flops
    else:
        assert spent(30, 281).flops == spent(8, 281).flops  # whatever K
        assert spent(8, 481).flops == spent(8, 281).flops  # whatever t_m


def test_shapes_alone_give_the_same_count():
    """On the meta device, where nothing is computed, Stable Diffusion's size: 860 M parameters, 0.8 TFLOP per row."""
    unet, vae = stable_diffusion.networks(torch.bfloat16, "meta")
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    denoiser = stable_diffusion.denoiser(unet)
    row = count(lambda: denoiser.unet_output(torch.empty(1, 4, 64, 64, device="meta"), 1)).flops
    assert row == pytest.approx(0.80e12, rel=0.02)
    decode = lambda x: vae.decode(x.to(vae.dtype)).sample
    layer = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"
    two = modulation_cost(denoiser, decode, (4, 64, 64), (16, 16), 2, layer, 21, 2)
    decoding = count(lambda: decode(torch.empty(4, 4, 64, 64, device="meta"))).flops
    assert 5 * 0.7 * row < two.flops - decoding < (2 * 5) * row


def test_front_is_relative_to_exact(pipe):
    variants = {name: measure.VARIANTS[name] for name in ("exact", "fast", "one-sided")}
    settings = dict(num_masks=3, modulation_timestep=41)
    results = [
        row
        for i in (0, 1)
        for row in measure.evaluate_variants(pipe, Toyscapes("test")[i], variants, **settings)
    ]
    table = measure.front(results)
    assert set(table.index) == {"bilinear", "bilinear, guided filter", *variants}
    assert table.loc["exact", ["times faster", "as exact", "share of gain"]].tolist() == [1, 1, 1]
    assert table.loc["bilinear", "gain"] == 0 and 0.2 < table.loc["fast", "as exact"] < 1


def test_the_command_prints_and_records_everything(tmp_path, monkeypatch, capsys):
    small = measure.peak_memory
    monkeypatch.setattr(measure, "peak_memory", lambda pipe, image: small(pipe, image, (2, 4), (21, 41), 2))
    options = ["--num-masks", "2", "--modulation-timestep", "41", "--repeats", "1", "--num-scenes", "0"]
    record = command.main(
        [*options, "--no-stable-diffusion", "--device", "cpu", "--json", str(tmp_path / "a" / "b.json")]
    )
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == json.loads(json.dumps(record))
    (comparison,) = (rows for title, rows in record.items() if title.startswith("Toyscapes"))
    exact = next(row for row in comparison if row["implementation"] == "exact")
    assert exact["same labels"] > 0.999 and exact["GFLOP"] > 1 and exact["seconds"] > 0
    assert "Peak memory" in capsys.readouterr().out
