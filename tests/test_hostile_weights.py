"""Model folders that are broken, foreign or malicious: refused in one sentence, and no code of theirs ever runs."""

import json
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib.loading import TOYSCAPES_FOLDER

NETWORKS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer.json",
    "scheduler": "scheduler_config.json",
}


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


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_are_no_numbers_are_named(folder, name):
    file = folder / name / NETWORKS[name]
    weights = load_file(file)
    key = next(key for key in sorted(weights, reverse=True) if weights[key].is_floating_point())
    weights[key].view(-1)[-1] = torch.inf
    save_file(weights, file, metadata={"format": "pt"})
    said = refusal(folder)
    assert f"The {name} of" in said and "NaN or infinite values in" in said and key.split(".")[-2] in said


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("content", [b"", bytes(1000), b"version https://git-lfs.github.com/spec/v1\n", None])
def test_files_that_are_missing_or_no_weights(folder, name, content):
    file = folder / name / NETWORKS[name]
    file.unlink() if content is None else file.write_bytes(content)
    said = refusal(folder)
    assert f"The {name} of" in said and f"download the folder {name}/ again" in said


def test_weights_of_another_architecture(folder):
    shutil.copy(TOYSCAPES_FOLDER / "vae" / NETWORKS["vae"], folder / "unet" / NETWORKS["unet"])
    assert "The unet of" in refusal(folder)


@pytest.mark.parametrize("content", ["", "[]", None])
@pytest.mark.parametrize("name", CONFIGS)
def test_broken_or_missing_configurations_name_their_part(folder, name, content):
    shutil.rmtree(folder / name) if content is None else (folder / name / CONFIGS[name]).write_text(content)
    assert f"The {name} of" in refusal(folder)


# -- what could run ---------------------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize(("name", "ending"), [("unet", "bin"), ("vae", "ckpt"), ("text_encoder", "bin")])
def test_pickles_are_never_read(folder, tmp_path, name, ending):
    trace = tmp_path / "it-ran"
    (folder / name / NETWORKS[name]).unlink()
    pickled = folder / name / NETWORKS[name].replace("safetensors", ending)
    pickled.write_bytes(pickle.dumps(Evil(trace)))
    said = refusal(folder)
    assert f"The {name} of" in said and "safetensors" in said and not trace.exists()
    pickle.loads(pickled.read_bytes()).close()
    assert trace.exists()  # so it would have


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
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize(
    "entry", [["evil_module", "Evil"], ["transformers", "AutoModel"], ["os", "system"], ["torch", "load"]]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_no_class_but_the_known_ones_is_used(folder, planted, entry, name):
    edit(folder / "model_index.json", **{name: entry})
    assert f"takes its {name} from {'.'.join(entry)}, which is not run" in refusal(folder)
    assert not planted.exists() and "evil_module" not in sys.modules


@pytest.mark.parametrize("kind", [["evil_module", "Evil"], ["pipeline", "Evil"]])
def test_a_model_s_own_pipeline_is_not_used(folder, planted, kind):
    edit(folder / "model_index.json", _class_name=kind)
    assert "takes its pipeline from" in refusal(folder, trust_remote_code=True)
    assert not planted.exists()


def test_what_emerdiff_does_not_use_is_not_looked_at(folder, planted):
    auto = {"AutoModel": "evil_module.Evil", "AutoTokenizer": ["evil_module.Evil", None]}
    edit(folder / "model_index.json", safety_checker=["evil_module", "Evil"], extra=["evil_module", "Evil"])
    edit(folder / "text_encoder/config.json", auto_map=auto)
    edit(folder / "tokenizer/tokenizer_config.json", auto_map=auto)
    edit(folder / "unet/config.json", auto_map=auto, _diffusers_auto_map=auto)
    EmerDiffPipeline.from_pretrained(folder)
    assert not planted.exists() and "evil_module" not in sys.modules
