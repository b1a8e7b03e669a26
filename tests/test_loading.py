"""From a name to a model: whole or refused in one sentence, no pickle read and no code of a model's run; its own settings."""

import json
import pickle
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from emerdiff_lib import EmerDiffPipeline, load_pipeline
from emerdiff_lib.loading import TOYSCAPES_FOLDER

from . import tiny_stable_diffusion
from .conftest import refusal, seeded

NETWORKS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
CONFIGS = dict.fromkeys(("unet", "vae", "text_encoder"), "config.json") | {
    "tokenizer": "tokenizer.json",
    "scheduler": "scheduler_config.json",
}
UNET = NETWORKS["unet"]
FILES = [f"{name}/{file}" for files in (NETWORKS, CONFIGS) for name, file in files.items()]


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(TOYSCAPES_FOLDER, tmp_path / "model")
    return tmp_path / "model"


def refused(source, kind=ValueError, **options):
    message = refusal(lambda: EmerDiffPipeline.from_pretrained(source, **options), kind)
    assert str(source) in message
    return message


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("model", ["toyscapes", "toyscapes-transformer"])
def test_bundled_models_carry_their_family_s_defaults(model):
    pipe = load_pipeline(model)
    assert pipe.own_settings == pipe.backbone.defaults()
    assert pipe.own_settings.items() <= pipe.default_settings().items()


def test_own_settings_are_checked_win_and_are_saved(pipe, scene, tmp_path):
    own = {"num_masks": 5, "modulation_timestep": 41, "modulation_strength": 7.0}
    EmerDiffPipeline.from_pipe(pipe.pipe, **own).save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    assert again.own_settings == own and own.items() <= again.default_settings().items()
    assert again.default_settings()["feature_timestep"] == 281  # from the family
    quick = {"generator": seeded(), "noise_ensemble_size": 1}
    assert own.items() <= again(scene.image, **quick).settings.items()
    assert again(scene.image, 2, **quick).settings["num_masks"] == 2  # the call over both
    message = refusal(lambda: EmerDiffPipeline.from_pipe(pipe.pipe, num_mask=5))
    assert "did you mean 'num_masks'" in message
    exact = again.modulate(again.cluster(scene.image, mode="fast", **quick), mode="exact")
    assert exact.settings == again.resolve(noise_ensemble_size=1)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "scheduler", "unet"])
def test_components_that_are_missing_are_named(folder, part):
    edit(folder / "model_index.json", **{part: [None, None]})
    message = refusal(lambda: EmerDiffPipeline.from_pretrained(folder).condition(""))
    assert ("of no family" if part == "unet" else f"has no {part}, which is needed") in message


def test_noise_of_another_kind_is_refused(pipe):
    flow = load_pipeline("toyscapes-transformer")
    for model, scheduler, message in (
        (pipe, FlowMatchEulerDiscreteScheduler(), "is a flow's, and this network needs DDPM's"),
        (pipe, EDMEulerScheduler(), "is of another kind, and this network needs DDPM's"),
        (flow, pipe.scheduler, "is DDPM's, and this network needs a flow's"),
    ):
        parts = {name: part for name, part in model.components.items() if name != "scheduler"}
        other = type(model.pipe)(**parts, scheduler=scheduler)
        assert message in refusal(lambda other=other: EmerDiffPipeline.from_pipe(other))


@pytest.mark.parametrize("declared", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("model", ["toyscapes", "toyscapes-v-prediction"])
def test_a_prediction_type_that_got_lost_is_seen(model, declared, scene):
    pipe = load_pipeline(model)
    pipe.scheduler.register_to_config(prediction_type=declared)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            pipe.invert(scene.image, start_timestep=1)
    right = (declared == "epsilon") == (model == "toyscapes")
    assert [f"prediction_type={declared!r}" in str(w.message) for w in caught] == [True] * (not right)


def test_missing_models_say_how_to_get_one(tmp_path):
    for name in (tmp_path / "nowhere", "nobody/no-such-model", "nowhere"):
        assert "hf download" in refused(name, FileNotFoundError)
    assert "model_index.json" in refused(tmp_path, FileNotFoundError)
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert "safetensors only" in refused(tmp_path / "model.ckpt")


def test_device_and_dtype_are_named_or_refused():
    for dtype in ({"torch_dtype": "bfloat16"}, {"dtype": torch.bfloat16}):
        pipe = EmerDiffPipeline.from_pretrained(**dtype)
        assert (pipe.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.bfloat16)
    with pytest.raises(ValueError, match="dtype='fp16' is unknown.*; choose one of 'float32', 'bfloat16'"):
        load_pipeline(dtype="fp16")
    for device in ("nonsense", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"):
            load_pipeline(device=device)


def test_a_folder_of_one_variant_loads(folder, pipe):
    for name, file in NETWORKS.items():
        (folder / name / file).rename(folder / name / file.replace(".", ".fp16."))
    for options in ({}, {"variant": "fp16"}):
        again = EmerDiffPipeline.from_pretrained(folder, **options)
        assert all(map(torch.equal, again.denoiser.parameters(), pipe.denoiser.parameters()))
    assert load_pipeline(folder, variant="fp16").dtype == torch.float32
    assert re.search("No such file|no file named", refused(folder, variant="bf16"))


def test_a_single_file_is_read(folder, tmp_path, pipe):
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder")}
    file = shutil.copy(folder / "unet" / UNET, tmp_path / "model.safetensors")
    again = EmerDiffPipeline.from_pretrained(file, config=folder, torch_dtype="float32", **parts)
    assert all(map(torch.equal, again.denoiser.parameters(), pipe.denoiser.parameters()))
    assert again.vae is pipe.vae and again.own_settings == {}
    assert "pass config=" in refused(file, config=tmp_path / "nowhere")
    weights = load_file(file)
    save_file(dict(list(weights.items())[3:]), file, metadata={"format": "pt"})
    assert "missing" in refused(file, config=folder, **parts)


def test_an_autoencoder_that_overflows_is_upcast_while_it_runs(tmp_path, scene):
    pipe = load_pipeline(tiny_stable_diffusion.save(tmp_path, 16, layout="XL"), "cpu", "float16")
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    pipe.encode(scene.image)
    assert seen == [torch.float32] and (pipe.vae.dtype, pipe.dtype) == (torch.float16, torch.float16)


def test_loading_leaves_the_user_s_progress_bars_as_they_were():
    for bars in (False, True):
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        load_pipeline()
        assert logging.is_progress_bar_enabled() == bars


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_are_missing_or_no_numbers_are_named(folder, name):
    file = folder / name / NETWORKS[name]
    weights = load_file(file)
    key = next(key for key in sorted(weights, reverse=True) if weights[key].is_floating_point())
    weights[key].view(-1)[-1] = torch.inf
    save_file(weights, file, metadata={"format": "pt"})
    message = refused(folder)
    assert re.search(f"The {name} of .* has NaN or infinite values in .*{key.split('.')[-2]}", message)
    save_file(dict(sorted(weights.items())[3:]), file, metadata={"format": "pt"})
    assert "is short of 3 tensors" in refused(folder)
    weights[key].view(-1)[-1] = 0.0
    save_file(weights | {"to_q.weight_scale": torch.ones(1)}, file, metadata={"format": "pt"})
    unused = f"The {name} of .* has 1 tensors that its configuration does not use"
    with pytest.warns(UserWarning, match=unused):
        EmerDiffPipeline.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"[]", "half", None])
@pytest.mark.parametrize("file", ["model_index.json", *FILES], ids=str)
def test_files_that_are_broken_or_missing_name_their_part(folder, file, content):
    path, part = folder / file, Path(file).parent.name
    if content is None:
        path.unlink() if path.suffix == ".safetensors" or not part else shutil.rmtree(path.parent)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    message = refused(folder, FileNotFoundError if content is None and not part else ValueError)
    assert not part or (f"The {part} of" in message and f"download the folder {part}/ again" in message)


@pytest.mark.parametrize(("name", "ending"), [("unet", "bin"), ("vae", "ckpt"), ("text_encoder", "bin")])
def test_pickles_are_never_read(folder, tmp_path, name, ending):
    trace, file = tmp_path / "it-ran", folder / name / NETWORKS[name]
    evil = type("Evil", (), {"__reduce__": lambda self: (open, (str(trace), "w"))})
    file.with_suffix(f".{ending}").write_bytes(pickle.dumps(evil()))
    file.unlink()
    message = refused(folder)
    assert f"The {name} of" in message and "safetensors" in message and not trace.exists()


@pytest.mark.parametrize("shard", ["weights.dat", "../x.safetensors", "/x.safetensors", "1.safetensors"])
def test_shards_are_safetensors_of_the_folder(folder, shard, pipe):
    file = folder / "unet" / UNET
    weights = dict.fromkeys(load_file(file), shard)
    index = json.dumps({"metadata": {}, "weight_map": weights})
    file.with_suffix(".safetensors.index.json").write_text(index)
    file.rename(folder / "unet" / "1.safetensors")
    if shard == "1.safetensors":
        again = EmerDiffPipeline.from_pretrained(folder)
        assert all(map(torch.equal, again.denoiser.parameters(), pipe.denoiser.parameters()))
    else:
        assert f"names the weights {shard!r}" in refused(folder)


@pytest.fixture
def planted(folder, tmp_path, monkeypatch):
    """Modules that write a file when they are imported: on the path, beside the weights, as a pipeline."""
    trace = tmp_path / "it-ran"
    code = f"open({str(trace)!r}, 'w').close()\nclass Evil: from_pretrained = classmethod(lambda *a, **k: None)\n"
    for place in (tmp_path, folder, *(folder / name for name in CONFIGS)):
        (place / "evil_module.py").write_text(code)
    (folder / "pipeline.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(folder)
    yield trace
    assert not trace.exists() and "evil_module" not in sys.modules


EVIL = [["evil_module", "Evil"], ["evil_module", None], ["evil_module", "Evil", 1], ["os", "system"]]


@pytest.mark.parametrize("entry", [*EVIL, ["transformers", "AutoModel"], ["diffusers", "DDPMPipeline"]])
@pytest.mark.parametrize("name", ["unet", "tokenizer", "extra"])
def test_no_class_but_the_known_ones_is_used(folder, planted, entry, name):
    edit(folder / "model_index.json", **{name: entry})
    assert f"takes its {name} from {'.'.join(map(str, entry))}, which is not run" in refused(folder)


@pytest.mark.parametrize("kind", [["evil_module", "Evil"], ["pipeline", "Evil"]])
def test_a_model_s_own_pipeline_is_not_used(folder, planted, kind):
    edit(folder / "model_index.json", _class_name=kind)
    assert "names the pipeline" in refused(folder, trust_remote_code=True)


def test_what_emerdiff_does_not_use_is_not_looked_at(folder, planted):
    auto = {"AutoModel": "evil_module.Evil", "AutoTokenizer": ["evil_module.Evil", None]}
    edit(folder / "model_index.json", safety_checker=["evil_module", "Evil"])
    for file in ("text_encoder/config.json", "tokenizer/tokenizer_config.json", "unet/config.json"):
        edit(folder / file, auto_map=auto, _diffusers_auto_map=auto)
    EmerDiffPipeline.from_pretrained(folder)
