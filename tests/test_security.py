"""What a stranger's file may not do: run code; and nobody phones home."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from emerdiff_lib.baselines import Backbone
from emerdiff_lib.loading import CLIP_FOLDER
from emerdiff_lib.words import MaskClip

from .conftest import refusal
from .test_repository import LIBRARY, NOTEBOOKS, ROOT, modules

# Of what ruff's security rules do not know; torch.load is safe unless it is told otherwise
UNSAFE = re.compile(r"allow_pickle=True|weights_only=False|trust_remote_code=True|unsafe_load|read_pickle")


def test_no_file_is_run_as_code():
    """No eval, exec, shell or pickle, by ruff's security rules; S101, S603 and S606 ask for less than that."""
    # between processes of one run, which also wrote what is unpickled
    between_processes = "emerdiff_lib/runs/cached_map.py:S301"
    rules = ["--isolated", "--select=S", "--ignore=S101,S603,S606", f"--per-file-ignores={between_processes}"]
    command = [sys.executable, "-m", "ruff", "check", *rules, "emerdiff_lib", "notebooks"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    for path in (*LIBRARY.rglob("*.py"), *NOTEBOOKS):
        assert not UNSAFE.search(path.read_text()), path


def test_nobody_is_called():
    """The library imported whole and a scene segmented, in a process that notes every name looked up and every connection."""
    needed = sorted(name for name in modules() if not name.endswith("__main__"))
    code = f"""
import sys
calls = []
sys.addaudithook(lambda event, about: calls.append((event, str(about))) if event in {{
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}} else None)
import importlib, socket
for name in {needed}:
    importlib.import_module("emerdiff_lib." + name if name else "emerdiff_lib")
from emerdiff_lib import EmerDiffPipeline, Toyscapes
EmerDiffPipeline.from_pretrained("toyscapes")(Toyscapes("test")[46].image, mode="fast", num_masks=2)
assert not calls, calls
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except OSError:
    pass
assert calls, "the hook sees nothing"
"""
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    told = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    run = subprocess.run([sys.executable, "-c", code], **told)
    assert run.returncode == 0, run.stderr[-2000:]


def not_finite(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors[sorted(tensors)[-1]].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def pickled_index(folder):
    (folder / "model.safetensors").rename(folder / "weights.dat")
    index = {"metadata": {}, "weight_map": dict.fromkeys(["logit_scale"], "weights.dat")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def configured(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            (config["text_config"] if name == "num_hidden_layers" else config)[name] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


HARMS = {
    "NaN": (not_finite, "NaN or infinite"),
    "an index of a pickle": (pickled_index, "names the weights 'weights.dat'"),
    "a million layers": (configured(num_hidden_layers=10**6), "num_hidden_layers=1000000"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "asks for another model"),
    "code": (configured(model_type="mine", auto_map={"AutoModel": "mine.Model"}), "cannot be read"),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("door", [MaskClip.from_pretrained, Backbone.from_pretrained])
def test_every_network_comes_through_one_door(tmp_path, monkeypatch, door, harm):
    folder = tmp_path / "clip"
    shutil.copytree(CLIP_FOLDER, folder)
    change, message = HARMS[harm]
    change(folder)
    (folder / "mine.py").write_text("raise SystemExit('the code of a model was run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked whether to run code"))
    # which takes its own class, whatever the folder says
    if (door, harm) != (MaskClip.from_pretrained, "code"):
        assert message in refusal(lambda: door(str(folder)))


def test_nothing_else_loads_networks():
    classes = r"\b(?:Auto\w+|CLIP\w+|kind|component|Autoencoder\w+|DiffusionPipeline)"
    loads = re.compile(classes + r"\.from_pretrained\(")
    found = [file for file in LIBRARY.rglob("*.py") if loads.search(file.read_text())]
    assert found == [LIBRARY / "loading.py"]
