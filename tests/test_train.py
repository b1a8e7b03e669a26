"""The trainer: one command from images to a folder that diffusers and EmerDiff load, which survives a kill."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from PIL import Image

from emerdiff_lib import load_pipeline
from emerdiff_lib.train.__main__ import kept_precision, main
from emerdiff_lib.train.architecture import SPECIAL, Model
from emerdiff_lib.train.config import Config, parse
from emerdiff_lib.train.packaging import load_weights
from emerdiff_lib.train.sources import folder_crops, read_captions

from .conftest import refusal

TINY = "--batch-size 2 --autoencoder-steps 2 --checkpoint-every 2 --cpu --mixed-precision no"
UNET = "--widths 8 16 16 16"
SCENES = f"{TINY} --num-scenes 24"


def run(options: str) -> None:
    main(options.split())


@pytest.fixture(autouse=True)
def as_a_new_process():
    """accelerate takes one precision for each process."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    run(f"{SCENES} {UNET} --output {folder} --steps 4")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four images of any size, one of them below, two with captions: a, b, below/d, c in the order of their paths."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "below").mkdir()
    sizes = {"a.png": (90, 70), "b.jpg": (40, 200), "c.png": (64, 64), "below/d.png": (300, 64)}
    for name, (width, height) in sizes.items():
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / name)
    rows = [{"file_name": "a.png", "text": "Road, sky"}, {"file_name": "below/d.png", "text": "a tree"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return folder


def test_training_exports_a_pipeline_with_sheets_a_log_and_a_card(trained):
    assert StableDiffusionPipeline.from_pretrained(trained / "model").unet.config.in_channels == 8
    assert list((trained / "denoiser").glob("samples-*.png"))
    assert list((trained / "autoencoder").glob("reconstructions-*.png"))
    settings = json.loads((trained / "model" / "model_index.json").read_text())["default_settings"]
    assert settings.items() <= load_pipeline(trained / "model").default_settings().items()
    assert settings["num_masks"] == 12
    card = (trained / "model" / "README.md").read_text()
    assert "Toyscapes scenes, seeds 2000 to 2023" in card and "denoiser and text encoders: 4 steps, " in card
    measures = [json.loads(line) for line in (trained / "denoiser" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in measures] == [2, 4] and measures[1]["loss of held-out images"] > 0


def test_a_killed_run_goes_on_as_if_nothing_had_happened(trained, photos, tmp_path):
    """On a folder's crops, with dropout; by SIGKILL after the denoiser's first checkpoint."""
    given = f"{TINY} {UNET} --size 64 --crops 1 --hold-out 2 --dropout 0.5 --images {photos} --steps 4"
    given += f" --warmup-steps 1 --learning-rate 1e-2 --init-from {trained / 'model'} --fresh-unet"
    given += f" --prediction-type v_prediction --output {tmp_path}"
    run(f"{given}/whole")
    killer = (
        "import os, signal, sys; from emerdiff_lib.train import __main__ as train, loop; save = loop.save\n"
        "def kill(*state):\n    save(*state)\n    state[1].name == 'denoiser' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "loop.save = kill; train.main(sys.argv[1].split())"
    )
    stopped = subprocess.run([sys.executable, "-c", killer, f"{given}/killed"], capture_output=True)
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr.decode()
    for stage in ("autoencoder", "denoiser"):
        assert json.loads((tmp_path / "killed" / stage / "latest.json").read_text())["step"] == 2
    run(f"{given}/killed")
    whole, resumed = (load_pipeline(tmp_path / name / "model") for name in ("whole", "killed"))
    for network in ("vae", "unet", "text_encoder"):
        weights = getattr(resumed, network).state_dict()
        for name, weight in getattr(whole, network).state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-5)
    assert whole.unet.config.dropout == 0.5 and whole.default_settings()["processing_resolution"] == 64
    assert whole.scheduler.config.prediction_type == "v_prediction"
    assert {"road", "sky", "and", "tree"} < set(whole.tokenizer.get_vocab())
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "2 more (one of 2) were held out" in card and "--dropout 0.5" in card
    with pytest.raises(ValueError, match="holds a run with other crops .run.json.; choose another --output"):
        run(f"{given}/killed --crops 3")


def test_training_continues_from_exported_weights(trained, photos, tmp_path, capsys):
    start = f"{TINY} --images {photos} --size 32 --steps 1 --init-from {trained}/model --output {tmp_path}"
    run(f"{start}/more {UNET}")
    assert "the text encoder starts anew" in capsys.readouterr().out  # of other words
    folders = (trained / "model", tmp_path / "more" / "model")
    before, after = (StableDiffusionPipeline.from_pretrained(folder) for folder in folders)
    assert 0 < (before.unet.conv_in.weight - after.unet.conv_in.weight).abs().max() < 0.05
    words = map(str, range(len(before.tokenizer) - len(SPECIAL)))
    encoder = Model(Config(), words).networks["text_encoder"]
    load_weights(trained / "model", text_encoder=encoder)
    assert all(map(torch.equal, encoder.parameters(), before.text_encoder.parameters()))
    assert "another architecture" in refusal(lambda: run(f"{start}/wide --widths 8 16 16 32"))
    with pytest.raises(FileNotFoundError, match="There is no model"):
        run(f"{start}/none --init-from {tmp_path}/nowhere")


@pytest.mark.parametrize("target", ["epsilon", "v_prediction"])
def test_losses_are_of_the_noise_and_the_velocity(target):
    """Of what is predicted, at the mixture that the definitions make of latents and noise."""
    model = Model(Config(prediction_type=target), "abcde")
    clean, noise = torch.randn(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    timesteps, calls = torch.tensor([1, 400, 999]), []

    def network(latents, *positional, **named):
        calls.append(latents)
        return SimpleNamespace(sample=noise)

    model.networks["unet"] = network
    loss = model.loss(clean, noise, timesteps, torch.randint(4, 8, (3, 64)))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = (1 - betas).cumprod(0)[timesteps, None, None, None]
    mixture = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    expected = noise if target == "epsilon" else velocity
    torch.testing.assert_close(calls[0], mixture, rtol=1e-4, atol=1e-4)
    assert loss.item() == pytest.approx((noise - expected).square().mean().item(), rel=1e-4)


def test_crops_are_parts_of_their_images_and_differ_by_epoch(photos):
    config = Config(images=[photos], size=64, crops=3, zoom=1.0)
    source = folder_crops(config)
    images = source.epoch(0)
    assert images.shape == (12, 64, 64, 3) and images.dtype == np.uint8
    assert source.captions[:3] == ["Road, sky"] * 3 and source.captions.count("") == 6
    square = np.asarray(Image.open(photos / "c.png"))  # as large as a crop, which is all of it, or mirrored
    for crop in images[9:]:
        assert np.array_equal(crop, square) or np.array_equal(crop, square[:, ::-1])
    assert not np.array_equal(source.epoch(1), images)
    config.workers = 1  # draws the same crops
    helped = folder_crops(config)
    for number in (1, 2):
        assert np.array_equal(helped.epoch(number), source.epoch(number))
    assert not np.array_equal(source.epoch(3), images)
    assert [source.epoch_at(step, 6) for step in (0, 3, 4, 8)] == [0, 0, 1, 2]


def test_held_out_images_are_in_no_epoch(photos):
    """Every second by path: whole squares of them, with their captions."""
    source = folder_crops(Config(images=[photos], size=64, crops=1, zoom=1.0, hold_out=2))
    files = sorted(photos.rglob("*.*g"))
    images, captions = source.held_out
    assert len(source.captions) == len(source.epoch(0)) == 2 and images.shape == (2, 64, 64, 3)
    assert captions == [{"a.png": "Road, sky", "d.png": "a tree"}.get(f.name, "") for f in files[::2]]
    with Image.open(files[0]) as first:  # 90 × 70: ten pixels of each side are left out
        centre = first.resize((64, 64), Image.Resampling.LANCZOS, box=(10, 0, 80, 70))
    assert np.array_equal(images[0], np.asarray(centre)) and "sky" in source.words
    with pytest.raises(ValueError, match="--hold-out=1 leaves no image"):
        folder_crops(Config(images=[photos], hold_out=1))


def test_caption_files_are_read_or_named(tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_text('\ufeff{"file_name": "a.png", "text": "x"}\n\n')  # as Windows writes it
    assert read_captions(file) == {"a.png": "x"}
    for line in ("{", '{"file_name": "a"}'):
        file.write_text('{"file_name": "a.png", "text": "x"}\n' + line + "\n")
        assert f"{file} cannot be read (line 2 is no" in refusal(lambda: read_captions(file))


@pytest.mark.parametrize(
    "given, message",
    [
        ("--size 100", "--size=100 is not possible; choose a multiple of 32"),
        ("--size 64", "--size=64 needs --images"),
        ("--autoencoder-steps 0", "keeps the autoencoder of --init-from"),
        ("--dropout 2", "--dropout=2.0 is not possible; it is a finite number of at least 0 and at most 1"),
        ("--widths 8 16 24 32", "multiple of 8, and then three of 16"),
    ],
)
def test_impossible_options_are_one_sentence(given, message):
    assert message in refusal(lambda: parse(given.split()))


@pytest.mark.parametrize("amx, precision", [(True, "bf16"), (False, "no")])
def test_a_cpu_trains_in_bfloat16_where_it_is_fast(monkeypatch, tmp_path, amx, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    assert kept_precision(Config(output=tmp_path, cpu=True)) == precision
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": not amx})
    assert kept_precision(Config(output=tmp_path, cpu=True)) == precision  # as the run began
