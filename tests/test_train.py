"""The trainer: one command from pictures to a folder that diffusers and EmerDiff load, which survives a kill."""

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image

from emerdiff_lib import load_pipeline
from emerdiff_lib.train import architecture, captions
from emerdiff_lib.train.__main__ import arguments, check, main
from emerdiff_lib.train.backbones import BACKBONES, TransformerBackbone
from emerdiff_lib.train.precision import fastest
from emerdiff_lib.train.sources import FolderCrops, epoch_of, read_captions

TINY = ["--batch-size", "2", "--autoencoder-steps", "2", "--checkpoint-every", "2", "--cpu"]
SCENES = [*TINY, "--num-scenes", "24", "--mixed-precision", "bf16"]


@pytest.fixture(autouse=True)
def as_a_new_process():
    """accelerate takes one precision for each process."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    main([*SCENES, "--output", str(folder), "--steps", "4"])
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five pictures of any size, one of them below, two with captions."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "below").mkdir()
    for name, size in (
        ("a.png", (90, 70)),
        ("b.jpg", (40, 200)),
        ("c.png", (64, 64)),
        ("below/d.png", (300, 64)),
    ):
        picture = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(picture).save(folder / name)
    rows = [{"file_name": "a.png", "text": "Road, sky"}, {"file_name": "below/d.png", "text": "a tree"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return folder


def test_training_exports_a_pipeline_with_sheets_and_a_log(trained):
    assert StableDiffusionPipeline.from_pretrained(trained / "model").unet.config.in_channels == 8
    assert list((trained / "denoiser").glob("samples-*.png"))
    assert list((trained / "autoencoder").glob("reconstructions-*dB.png"))
    assert json.loads((trained / "denoiser" / "latest.json").read_text())["step"] == 4
    own = json.loads((trained / "model" / "model_index.json").read_text())["default_settings"]
    assert (
        own.items() <= load_pipeline(trained / "model").default_settings().items() and own["num_masks"] == 12
    )
    card = (trained / "model" / "README.md").read_text()
    assert "Toyscapes scenes, seeds 2000 to 2023" in card and "| U-Net and text encoder | 4 | 8 |" in card


def test_a_killed_run_goes_on_as_if_nothing_had_happened(trained, tmp_path):
    """Two steps, a stop, two more steps: the same weights as four steps in one go."""
    command = [sys.executable, "-m", "emerdiff_lib.train", *SCENES, "--output", str(tmp_path), "--steps"]
    killer = (
        "import sys; from emerdiff_lib.train import __main__ as train, stage; save = stage.Stage.save\n"
        "def kill(self):\n    save(self)\n    if self.name == 'denoiser': sys.exit(9)\n"
        "stage.Stage.save = kill; train.main(sys.argv[1:])"
    )
    stopped = subprocess.run([sys.executable, "-c", killer, *command[3:], "4"], capture_output=True)
    assert stopped.returncode == 9, stopped.stderr.decode()
    assert json.loads((tmp_path / "denoiser" / "latest.json").read_text())["step"] == 2
    subprocess.run([*command, "4"], check=True, capture_output=True)
    whole, resumed = (
        StableDiffusionPipeline.from_pretrained(f / "model").unet.state_dict() for f in (trained, tmp_path)
    )
    for name in whole:
        torch.testing.assert_close(whole[name], resumed[name], rtol=1e-3, atol=1e-4)


def test_training_continues_from_exported_weights(trained, tmp_path):
    main([*SCENES, "--output", str(tmp_path / "more"), "--steps", "1", "--init-from", str(trained / "model")])
    before, after = (
        StableDiffusionPipeline.from_pretrained(f / "model").unet.conv_in.weight
        for f in (trained, tmp_path / "more")
    )
    assert 0 < (before - after).abs().max() < 0.05
    with pytest.raises(FileNotFoundError, match="--init-from"):
        main([*SCENES, "--output", str(tmp_path / "other"), "--init-from", str(tmp_path / "nowhere")])


def test_a_relative_shares_the_autoencoder_and_differs_in_what_is_asked(trained, tmp_path):
    given = ["--init-from", str(trained / "model"), "--fresh-unet", "--widths", "8", "16", "32", "32"]
    options = [
        *SCENES,
        "--autoencoder-steps",
        "0",
        "--prediction-type",
        "v_prediction",
        "--empty-captions",
        "1",
    ]
    main([*options, *given, "--output", str(tmp_path), "--steps", "2"])
    pipe, other = load_pipeline(tmp_path / "model"), load_pipeline(trained / "model")
    for name, weight in pipe.vae.state_dict().items():
        torch.testing.assert_close(weight, other.vae.state_dict()[name])
    assert pipe.unet.config.block_out_channels == [8, 16, 32, 32]
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.default_settings() == other.default_settings()
    assert "--prediction-type v_prediction" in (tmp_path / "model" / "README.md").read_text()


def test_a_transformer_is_trained_by_the_same_command(trained, tmp_path):
    """Resumed half-way; what diffusers' own pipeline samples, with words that are read to their end."""
    given = ["--init-from", str(trained / "model"), "--fresh-unet", "--autoencoder-steps", "0"]
    options = [*SCENES, *given, "--backbone", "transformer", "--width", "32", "--depth", "2"]
    for steps in ("2", "4"):
        main([*options, "--output", str(tmp_path), "--steps", steps])
    folder = tmp_path / "model"
    without = dict(text_encoder_3=None, tokenizer_3=None)  # how diffusers is told that T5 is not there
    theirs, pipe = StableDiffusion3Pipeline.from_pretrained(folder, **without), load_pipeline(folder)
    theirs.set_progress_bar_config(disable=True)
    assert theirs.transformer.config.num_layers == 2 and theirs.text_encoder_3 is None
    picture = theirs("a boat", num_inference_steps=2, max_sequence_length=0, output_type="np").images[0]
    assert picture.shape == (128, 128, 3) and np.isfinite(picture).all()
    told = pipe.conditioning("a boat")
    assert told.prompt_embeds.shape == (1, 64, 96)  # no zeros for a third text encoder, as it was trained
    assert (told.pooled - pipe.conditioning("a tree").pooled).abs().max() > 1e-4
    assert pipe.default_settings()["feature_layer"] == "transformer_blocks.1.attn"
    card = (folder / "README.md").read_text()
    assert "--backbone transformer --width 32 --depth 2" in card and "`max_sequence_length=0`" in card
    with pytest.raises(ValueError, match="holds a run with --depth 2, not 3"):
        main([*options, "--output", str(tmp_path), "--steps", "5", "--depth", "3"])


def test_a_transformer_learns_the_flow():
    """Its loss is that of diffusers' flow scheduler: ε − x₀ at the mixture that scheduler makes."""
    args = argparse.Namespace(size=64, width=32, depth=1)
    backbone, scheduler = TransformerBackbone(args, 8), FlowMatchEulerDiscreteScheduler()
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 8, 16, 16)
    timesteps, tokens, asked = torch.tensor([1, 400, 999]), torch.randint(4, 8, (3, 64)), []
    networks = backbone.networks | {
        "transformer": lambda latents, **told: asked.append((latents, told)) or Answer(noise)
    }
    loss = backbone.loss(networks, (clean, noise), timesteps, tokens, nullcontext())
    assert loss.item() == pytest.approx(clean.square().mean().item(), rel=1e-5)  # ε was answered for ε − x₀
    ((mixed, told),) = asked
    expected = scheduler.scale_noise(clean, timesteps.float(), noise)
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)
    assert told["timestep"].tolist() == [1, 400, 999]


@dataclass
class Answer:
    sample: torch.Tensor


def test_a_folder_of_pictures_becomes_a_model(trained, photos, tmp_path, capsys):
    """Its own words, from weights with others: the text encoder starts anew, and says so."""
    given = [*TINY, "--images", str(photos), "--size", "64", "--crops", "2", "--steps", "2"]
    given += [
        "--output",
        str(tmp_path),
        "--init-from",
        str(trained / "model"),
        "--license",
        "mit",
        "--terms",
        "Mine.",
    ]
    main(given)
    said = capsys.readouterr().out
    assert "Pictures a second: no" in said and "text encoder starts anew" in said
    pipe = load_pipeline(tmp_path / "model")
    assert {"road", "sky", "and", "tree"} < set(
        pipe.tokenizer.get_vocab()
    ) and "boat" not in pipe.tokenizer.get_vocab()
    assert pipe.default_settings()["processing_resolution"] == 64
    pipe.set_progress_bar_config(disable=True)
    out = pipe(photos / "b.jpg", 3, num_inference_steps=4)
    assert out.labels.shape == (200, 40)
    card = (tmp_path / "model" / "README.md").read_text()
    assert (
        "license: mit" in card
        and "4 pictures" in card
        and "2 of them with a caption" in card
        and "Mine." in card
    )
    with pytest.raises(ValueError, match=r"holds a run with --crops 2, not 3; choose another --output"):
        main([*given[: given.index("--crops")], "--crops", "3", *given[given.index("--crops") + 2 :]])


def test_crops_are_parts_of_their_pictures_and_differ_by_epoch(photos):
    source = FolderCrops([photos], size=64, crops=3, zoom=1.0)
    assert len(source) == 12 and source.words == ["a", "and", "road", "sky", "tree"]
    pictures, texts = source.epoch(0)
    assert pictures.shape == (12, 64, 64, 3) and pictures.dtype == np.uint8
    assert texts[:3] == ["Road, sky"] * 3 and texts.count("") == 6
    own = np.asarray(
        Image.open(photos / "c.png")
    )  # as large as a crop, which is all of it, or its mirror image
    for crop in pictures[9:]:
        assert np.array_equal(crop, own) or np.array_equal(crop, own[:, ::-1])
    assert np.array_equal(FolderCrops([photos], size=64, crops=3, zoom=1.0).epoch(0)[0], pictures)
    assert not np.array_equal(source.epoch(1)[0], pictures)
    assert len(set(source.captions(8)) - {"Road, sky", "a tree"}) == 0
    assert [epoch_of(step, 6, source) for step in (0, 3, 4, 8)] == [0, 0, 1, 2]


def test_workers_draw_the_same_crops_ahead(photos):
    alone, helped = (FolderCrops([photos], size=32, crops=2, workers=workers) for workers in (0, 1))
    for number in (0, 1, 3):
        assert np.array_equal(alone.epoch(number)[0], helped.epoch(number)[0])
    assert helped._ahead[0] == 4  # the next one is under way


def test_held_out_pictures_are_in_no_epoch(photos):
    """Every second of a, b, below/d, c by path: the first and the third; whole squares of them, with their captions."""
    source = FolderCrops([photos], size=64, crops=1, zoom=1.0, hold_out=2)
    files = sorted(photos.rglob("*.*g"))
    pictures, texts = source.held_out()
    assert len(source) == 2 and len(source.epoch(0)[0]) == 2 and pictures.shape == (2, 64, 64, 3)
    assert texts == [{"a.png": "Road, sky", "d.png": "a tree"}.get(f.name, "") for f in files[::2]]
    with Image.open(files[0]) as first:  # 90 × 70: ten pixels of each side are left out
        centre = first.resize((64, 64), Image.Resampling.LANCZOS, box=(10, 0, 80, 70))
    assert np.array_equal(pictures[0], np.asarray(centre))
    assert "2 more (every 2th) were held out" in source.title and "sky" in source.words
    with pytest.raises(ValueError, match="--hold-out=1 leaves no picture"):
        FolderCrops([photos], hold_out=1)
    assert len(FolderCrops([photos]).held_out()[0]) == 0


def test_the_loss_of_held_out_pictures_is_logged(trained, photos, tmp_path):
    given = [
        *TINY,
        "--images",
        str(photos),
        "--size",
        "64",
        "--crops",
        "1",
        "--steps",
        "2",
        "--hold-out",
        "2",
    ]
    given += ["--widths", "8", "16", "16", "16", "--dropout", "0.1", "--mixed-precision", "no"]
    main([*given, "--output", str(tmp_path)])
    (row,) = [
        json.loads(line) for line in (tmp_path / "denoiser" / "held-out.jsonl").read_text().splitlines()
    ]
    assert row["step"] == 2 and row["held_out"] > 0 and row["trained_on"] > 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Loss of held-out pictures: {row['held_out']:.4f}" in card and "--dropout 0.1" in card
    assert load_pipeline(tmp_path / "model").unet.config.dropout == 0.1


def test_caption_files_are_read_or_named(photos, tmp_path):
    assert read_captions(tmp_path / "none") == {}
    with pytest.raises(FileNotFoundError, match="caption file"):
        FolderCrops([photos], captions=tmp_path / "none")
    bad = tmp_path / "bad.jsonl"
    for line in ("{", "[]", '{"file_name": "a"}', "null"):
        bad.write_text('{"file_name": "a.png", "text": "x"}\n' + line + "\n")
        with pytest.raises(ValueError, match="line 2, is no caption"):
            read_captions(bad)
    bad.write_text('{"file_name": "z.png", "text": "x"}\n')
    with pytest.raises(ValueError, match="names none of the 4 pictures"):
        FolderCrops([photos], captions=bad)
    with pytest.raises(FileNotFoundError, match="no picture below"):
        (tmp_path / "empty").mkdir()
        FolderCrops([tmp_path / "empty"])


@pytest.mark.parametrize(
    "given, message",
    [
        (["--size", "100"], "a multiple of 32"),
        (["--size", "64"], "needs --images"),
        (["--captions", "c.jsonl"], "belong to pictures"),
        (["--autoencoder-steps", "0"], "keeps the autoencoder"),
        (["--batch-size", "0"], "--batch-size=0"),
        (["--zoom", "0"], "--zoom=0"),
        (["--depth", "3"], "--depth is for --backbone transformer; this one is unet"),
        (["--backbone", "transformer", "--dropout", "0.1"], "--dropout is for --backbone unet"),
        (["--width", "48"], "--width=48 is not possible; choose a multiple of 32"),
        (
            ["--backbone", "transformer", "--prediction-type", "v_prediction"],
            "--prediction-type is for --backbone unet; this one is transformer",
        ),
        (["--fresh-unet"], "takes the autoencoder of --init-from"),
        (["--widths", "8", "16", "24", "32"], "multiples of 8, and then three of 16"),
        (["--low-timesteps", "2"], "--low-timesteps=2"),
        (["--hold-out", "-1"], "--hold-out=-1"),
        (["--dropout", "2"], "--dropout=2"),
    ],
)
def test_impossible_arguments_are_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        check(arguments(given))


@pytest.mark.parametrize("backbone", BACKBONES.values())
def test_the_fastest_precision_is_one_that_was_tried(backbone):
    args = argparse.Namespace(size=64, widths=[8, 16, 32, 32], width=32, depth=1, dropout=0.0)
    args.prediction_type = "epsilon"
    name, rates = fastest(backbone(args, 8), 64, 2, cpu=True, steps=1)
    assert rates[name] == max(rates.values()) and set(rates) == {"no", "bf16"} and min(rates.values()) > 0


def test_captions_name_classes_by_their_size():
    labels = np.array([[0, 0, 0, 1], [2, 2, 9, 9]])
    assert captions.caption(labels, ["sky", "car", "road"], 9) == "sky and road and car"
    assert captions.caption(labels, ["sky", "car", "road"], 2, least=0.2) == "sky"


def test_a_labelled_folder_becomes_captions(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / "train" / part).mkdir(parents=True)
    labels = np.zeros((8, 8), np.uint8)
    labels[:3], labels[0] = 1, 255
    Image.fromarray(labels).save(tmp_path / "train" / "labels" / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "images" / "a.jpg")
    images, output = tmp_path / "train" / "images", tmp_path / "metadata.jsonl"
    given = ["--dataset", "folder", "--root", str(tmp_path), "--images", str(images), "--output", str(output)]
    captions.main([*given, "--class-names", "road", "sky"])
    assert read_captions(output) == {"a.jpg": "road and sky"}
    with pytest.raises(ValueError, match="toyscapes"):
        captions.main(["--dataset", "toyscapes", *given[2:]])


def test_every_word_of_a_caption_has_a_token_of_its_own():
    words = architecture.words_of(["A road, a Tree", "a sky"])
    tokenizer = architecture.build_tokenizer(words)
    ids = architecture.tokenize(tokenizer, ["a tree, a road", "unheard of"])
    assert ids.shape == (2, 64) and tokenizer.unk_token_id not in ids[0]
    assert (ids[1] == tokenizer.unk_token_id).sum() == 2
