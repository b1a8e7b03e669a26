"""Reading and writing the model as a diffusers folder of fp16 safetensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from ..checkpoints import family_of
from ..files import write_atomically
from .backbones import Backbone, Networks

WEIGHTS = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
}


def load_weights(folder: Path, **modules: torch.nn.Module) -> None:
    """Copy a diffusers folder's weights into freshly built modules (float32); a text encoder of other words starts anew.

    Raises:
        FileNotFoundError: where a component's file is missing.
        ValueError: where the weights are of another architecture.
    """
    for name, module in modules.items():
        path = Path(folder) / WEIGHTS[name]
        found, wrong = weights_for(module, path)
        if wrong and name.startswith("text_encoder"):
            print(f"The captions' words are not those of {folder}: the text encoder starts anew.")
        elif wrong:
            raise ValueError(
                f"{path} is of another architecture ({wrong[0]}); --init-from takes models of this trainer."
            )
        else:
            module.load_state_dict(found)


def weights_for(module: torch.nn.Module, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file's weights (float32), and the names of those that it and the module do not have in one shape.

    Raises:
        FileNotFoundError: there is no file.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; --init-from takes a folder as this trainer exports it."
        )
    found = {name: value.float() for name, value in load_file(path).items()}
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    return found, [n for n in shapes | found if n not in found or shapes.get(n) != found[n].shape]


def export(
    folder: Path,
    backbone: Backbone,
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerFast,
    networks: Networks,
) -> Path:
    """Write what diffusers' own pipeline loads ``from_pretrained(folder)``, with its EmerDiff defaults; returns the folder.

    Of a transformer, that is ``StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)``, which
    wants ``max_sequence_length=0`` when it is called.
    """
    half = {name: copy.deepcopy(module).half() for name, module in networks.items()}
    pipeline = backbone.pipeline(copy.deepcopy(vae).half(), tokenizer, half)
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers loads a model in the dtype that its config names, diffusers in float32: let both be float32 by default
    index = folder / "model_index.json"
    unet = next(iter(networks.values()))
    own = family_of(unet.config).defaults(unet, 2 ** (len(vae.config.block_out_channels) - 1))
    write_atomically(
        index,
        json.dumps(json.loads(index.read_text()) | backbone.options | {"default_settings": own}, indent=2)
        + "\n",
    )
    for file in folder.glob("text_encoder*/config.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    return folder
