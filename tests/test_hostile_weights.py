"""Model folders that are broken, foreign or malicious: refused in one sentence, and no code of theirs ever runs."""

import json
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib.checkpoints import TOYSCAPES_FOLDER

NETWORKS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
PARTS = [*NETWORKS, "tokenizer", "scheduler"]


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(TOYSCAPES_FOLDER, tmp_path / "model")
    return tmp_path / "model"


def refusal(source, kind=ValueError, **options):
    with pytest.raises(kind) as caught:
        EmerDiffPipeline.from_pretrained(source, **options)
    message = str(caught.value)
    assert type(caught.value) is kind and len(message.splitlines()) == 1 and str(source) in message, message
    return message


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_are_no_numbers_are_named(folder, name, value):
    file = folder / name / NETWORKS[name]
    weights = load_file(file)
    key = next(key for key in sorted(weights, reverse=True) if weights[key].is_floating_point())
    weights[key].view(-1)[-1] = value
    save_file(weights, file, metadata={"format": "pt"})
    said = refusal(folder)
    assert f"The {name} of" in said and "NaN or infinite values in" in said and key.split(".")[-2] in said


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_another_architecture(folder, name):
    file = folder / name / NETWORKS[name]
    weights = load_file(file)
    save_file({k: torch.cat([w, w]) for k, w in weights.items()}, file, metadata={"format": "pt"})
    assert f"The {name} of" in refusal(folder)
    other = next(one for one in NETWORKS if one != name)
    shutil.copy(TOYSCAPES_FOLDER / other / NETWORKS[other], file)
    assert f"The {name} of" in refusal(folder)


HEADS = {  # the length of the header, then the header
    "a header longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "the longest header": (2**64 - 1).to_bytes(8, "little"),
    "no JSON": (4).to_bytes(8, "little") + b"abcd",
    "offsets beyond the file": (66).to_bytes(8, "little")
    + b'{"conv_in.weight":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'[:66],
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("row", HEADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_files_that_are_no_safetensors(folder, name, row):
    (folder / name / NETWORKS[name]).write_bytes(HEADS[row])
    assert f"The {name} of" in refusal(folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_missing_weights(folder, name):
    (folder / name / NETWORKS[name]).unlink()
    said = refusal(folder)
    assert f"The {name} of" in said and f"download the folder {name}/ again" in said


# -- configurations ---------------------------------------------------------------------------------------------------

CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer.json",
    "scheduler": "scheduler_config.json",
}


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\0\0"])
@pytest.mark.parametrize("name", PARTS)
def test_broken_configurations_name_their_part(folder, name, content):
    (folder / name / CONFIGS[name]).write_text(content)
    assert f"The {name} of" in refusal(folder)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing_is_named(folder, name):
    shutil.rmtree(folder / name)
    assert f"The {name} of" in refusal(folder)


@pytest.mark.parametrize(
    "entry", [[], ["diffusers"], "diffusers", None, [1, 2], {"a": 1}, ["", ""], [["diffusers"], "X"]]
)
def test_entries_of_the_index_that_are_none(folder, entry):
    whole = (folder / "model_index.json").read_text()
    for name in PARTS:
        edit(folder / "model_index.json", **{name: entry})
        said = refusal(folder)
        assert f"lacks {name}" in said or f"takes its {name} from" in said
        (folder / "model_index.json").write_text(whole)


@pytest.mark.parametrize(
    "own", [["num_masks"], "num_masks", 5, {"num_masks": "many"}, {"num_masks": -1}, {"masks": 1}]
)
def test_own_defaults_that_are_none(folder, own):
    edit(folder / "model_index.json", default_settings=own)
    with pytest.raises((ValueError, TypeError)) as caught:
        EmerDiffPipeline.from_pretrained(folder).default_settings()
    assert len(str(caught.value).splitlines()) == 1


# -- what could run ---------------------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize(
    ("name", "ending"),
    [("unet", "bin"), ("vae", "ckpt"), ("vae", "pt"), ("text_encoder", "bin"), ("text_encoder", "pth")],
)
def test_pickles_are_never_read(folder, tmp_path, name, ending):
    trace = tmp_path / "it-ran"
    (folder / name / NETWORKS[name]).unlink()
    pickled = folder / name / NETWORKS[name].replace("safetensors", ending)
    pickled.write_bytes(pickle.dumps(Evil(trace)))
    said = refusal(folder)
    assert f"{pickled.name} only, and a pickle runs code" in said and "safetensors only" in said
    assert not trace.exists()
    pickle.loads(pickled.read_bytes()).close()
    assert trace.exists()  # so it would have


@pytest.mark.parametrize("name", ["v1-4.ckpt", "v1-4.safetensors", "unet.bin"])
def test_single_files_are_no_models(tmp_path, name):
    trace = tmp_path / "it-ran"
    (tmp_path / name).write_bytes(pickle.dumps(Evil(trace)))
    said = refusal(tmp_path / name)
    assert "is a single file" in said and "from_single_file" in said and not trace.exists()
    assert ("a pickle runs code" in said) == (not name.endswith("safetensors"))


@pytest.fixture
def planted(folder, tmp_path, monkeypatch):
    """Modules that write a file when they are imported: on the path, beside the weights, as a pipeline."""
    trace = tmp_path / "it-ran"
    code = f"open({str(trace)!r}, 'w').close()\nclass Evil: from_pretrained = classmethod(lambda *a, **k: None)\n"
    for place in (tmp_path, folder, *(folder / name for name in PARTS)):
        (place / "evil_module.py").write_text(code)
    (folder / "pipeline.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(folder)
    yield trace
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize(
    "entry",
    [
        ["evil_module", "Evil"],
        ["transformers", "AutoModel"],
        ["diffusers", "DiffusionPipeline"],
        ["os", "system"],
        ["torch", "load"],
        ["transformers", "pipeline"],
        ["diffusers.utils", "torch_utils"],
    ],
)
def test_no_class_but_the_known_ones_is_used(folder, planted, entry):
    whole = (folder / "model_index.json").read_text()
    for name in PARTS:
        edit(folder / "model_index.json", **{name: entry})
        assert f"takes its {name} from {'.'.join(entry)}, which is not run" in refusal(folder)
        (folder / "model_index.json").write_text(whole)
    assert not planted.exists() and "evil_module" not in sys.modules


@pytest.mark.parametrize("kind", [["evil_module", "Evil"], ["pipeline", "Evil"]])
def test_a_model_s_own_pipeline_is_not_used(folder, planted, kind):
    edit(folder / "model_index.json", _class_name=kind)
    assert "takes its pipeline from" in refusal(folder, trust_remote_code=True)
    assert not planted.exists()


def test_what_emerdiff_does_not_use_is_not_looked_at(folder, planted):
    auto = {
        "AutoConfig": "evil_module.Evil",
        "AutoModel": "evil_module.Evil",
        "AutoTokenizer": ["evil_module.Evil", None],
    }
    edit(folder / "model_index.json", safety_checker=["evil_module", "Evil"], extra=["evil_module", "Evil"])
    edit(folder / "text_encoder/config.json", auto_map=auto)
    edit(folder / "tokenizer/tokenizer_config.json", auto_map=auto)
    edit(folder / "unet/config.json", auto_map=auto, _diffusers_auto_map=auto)
    EmerDiffPipeline.from_pretrained(folder)
    assert not planted.exists() and "evil_module" not in sys.modules
