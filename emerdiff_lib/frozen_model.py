"""A diffusers pipeline as a frozen model: its settings, images to latents and back, predictions, and what fits into memory."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, Unpack

import psutil
import torch
from diffusers import DiffusionPipeline

from . import images as image_io
from .backbones import TextTokens, find_backbone
from .files import write_atomically
from .interventions import ChannelsLast, exclusive
from .inversion import Trajectory, draw_noise
from .loading import load_diffusers_pipeline
from .predictor import Predictor
from .settings import REQUIRED, Options, Settings, check_known, check_made, check_names, layered, suggestion

_OWN_HOOKS = ("transformers", "diffusers", "accelerate", "peft", "torch", "emerdiff_lib")  # record and move


class FrozenModel:
    """A diffusers pipeline around whose network the method is built; nothing of it is changed.

    What is not defined here is the pipeline's own: ``components``, ``to``, ``enable_model_cpu_offload``, ``load_lora_weights`` …

    Args:
        pipe: any pipeline of a family in :data:`.backbones.BACKBONES`.
        default_settings: this checkpoint's own, by flat name (:data:`emerdiff_lib.settings.NAMES`).
        model_name: by which other processes load it; None where it was put together in memory.
        variant: of the weights' files that were loaded, for these processes.

    Raises:
        ValueError: no known family, a missing component, a scheduler of another kind of noise, or an unknown setting.
    """

    def __init__(
        self,
        pipe: DiffusionPipeline,
        default_settings: Mapping[str, Any] | None = None,
        model_name: str | None = None,
        variant: str = "",
    ):
        self.pipe: Any = pipe
        self.backbone = find_backbone(pipe)
        self.own_settings = dict(default_settings or {})
        self.model_name, self.variant = model_name, variant
        check_names(self.own_settings)
        self.looked_at_prediction_type = False
        self._require("vae", "movq", "scheduler")
        self._check_noise()
        layers_given = {"feature_layer", "modulation_layer"} <= self.own_settings.keys()
        if self.backbone.name.startswith("U-Net") and not layers_given:
            feature, modulation = self.backbone.default_layers()
            warnings.warn(
                f"This U-Net is of no family that is known. Queries are taken from {feature}, and {modulation} is modulated, "
                "where the grid is nearest to the paper's; set feature_layer and modulation_layer to choose others.",
                stacklevel=3,
            )

    def _check_noise(self) -> None:
        config = self.pipe.scheduler.config
        is_flow = config.get("use_flow_sigmas") or ("shift" in config and config.get("beta_schedule") is None)
        given = "a flow's" if is_flow else "DDPM's" if "beta_start" in config else "of another kind"
        needed = "a flow's" if self.backbone.is_flow else "DDPM's"
        if given != needed:
            raise ValueError(
                f"The noise of {type(self.pipe.scheduler).__name__} is {given}, and this network needs {needed}; take the "
                "scheduler of the model's own folder."
            )

    def _require(self, *names: str) -> None:
        """Raises a ValueError where one of these components, if this kind of pipeline has it at all, was left out."""
        if missing := [name for name in names if self.pipe.components.get(name, self) is None]:
            kind = type(self.pipe).__name__
            raise ValueError(f"This {kind} has no {missing[0]}, which is needed; load it whole.")

    @classmethod
    def from_pipe(
        cls, pipe: DiffusionPipeline, num_masks: int | None = None, **default_settings: Unpack[Options]
    ) -> Self:
        """Around a pipeline in memory, whatever was done to it (LoRA, dtype, offload, quantisation, compiling): no copy.

        Settings that a folder's ``model_index.json`` keeps are :meth:`from_pretrained`'s alone; pass them here.
        """
        named = {} if num_masks is None else {"num_masks": num_masks}
        return cls(pipe, {**named, **default_settings})

    @classmethod
    def from_pretrained(cls, name: str | Path = "toyscapes", **kwargs: Any) -> Self:
        """Load a checkpoint from safetensors.

        Args:
            name: "toyscapes" or "streets" (bundled), a diffusers folder, a hub id such as "CompVis/stable-diffusion-v1-4", or a
                ``.safetensors`` file.
            **kwargs: as for ``DiffusionPipeline.from_pretrained``: ``torch_dtype`` (float32 by default; its name will do),
                ``variant`` …

        Raises:
            FileNotFoundError, ValueError: as :func:`.loading.load_diffusers_pipeline`, or another kind of model.
        """
        pipe = load_diffusers_pipeline(name, **kwargs)
        for network in pipe.components.values():
            if isinstance(network, torch.nn.Module):
                network.requires_grad_(False)
        index = {} if str(name).endswith(".safetensors") else DiffusionPipeline.load_config(pipe.name_or_path)
        return cls(pipe, index.get("default_settings"), str(name), kwargs.get("variant") or "")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "pipe":
            raise AttributeError(name)
        try:
            return getattr(self.pipe, name)
        except AttributeError:
            kind, hint = type(self.pipe).__name__, suggestion(name, dir(self) + dir(self.pipe))
            raise AttributeError(
                f"Neither {type(self).__name__} nor the {kind} within has {name!r}{hint}; dir(pipe) lists what there is.",
                name=name,
                obj=self,
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """A component is the pipeline's: ``pipe.scheduler = …`` as in diffusers."""
        inner = self.__dict__.get("pipe")
        if inner is not None and name in inner.components:
            setattr(inner, name, value)
        else:
            super().__setattr__(name, value)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the pipeline, as diffusers' ``to``."""
        self.pipe.to(*args, **kwargs)
        return self

    def save_pretrained(self, folder: Path | str, **kwargs: Any) -> None:
        """As diffusers' ``save_pretrained``, with this checkpoint's own settings in ``model_index.json``."""
        self.pipe.save_pretrained(folder, **kwargs)
        file = Path(folder) / "model_index.json"
        index = json.loads(file.read_text()) | {"default_settings": self.own_settings}
        write_atomically(file, json.dumps(index, indent=2) + "\n")

    @property
    def denoiser(self) -> Any:
        """The network that predicts noise, a U-Net or a transformer."""
        return self.backbone.denoiser

    @property
    def dtype(self) -> torch.dtype:
        """Of the network that predicts noise."""
        return self.denoiser.dtype

    @property
    def autocast(self) -> str | None:
        """The dtype that autocast computes in here and now; None without it."""
        kind = self.backbone.device.type
        active = torch.is_autocast_enabled(kind)
        return str(torch.get_autocast_dtype(kind)).removeprefix("torch.") if active else None

    @property
    def vae_scale_factor(self) -> int:
        """Pixels on a side of a latent's cell."""
        return self.backbone.vae_scale_factor

    @property
    def reads_text(self) -> bool:
        """Whether the network is conditioned on text."""
        return bool(self.backbone.text_tokens(""))

    # -- settings ---------------------------------------------------------------------------------------------------

    def default_settings(self) -> dict[str, Any]:
        """Default settings of this checkpoint, by flat name."""
        return self.resolve().to_dict()

    def resolve(self, trajectory: Trajectory | None = None, **given: Any) -> Settings:
        """All settings: those given (None: not given), over the checkpoint's own, over its family's, checked.

        Default timesteps move to the nearest one of the trajectory, or of the schedule, where N or its start ask for it.

        Raises:
            ValueError: a name, type or value that is not possible, or that contradicts the trajectory.
        """
        if trajectory is not None:
            check_made("trajectory", trajectory, Trajectory, "pipe.invert")
            given = trajectory.settings(given)
            made_in = trajectory.latent_space
            here = self.latent_space(trajectory.method == "ddim" or bool(trajectory.noise_maps))
            same = lambda other: torch.allclose(other, here, rtol=0.02, atol=1e-4)  # as bfloat16 rounds
            if made_in is not None and not (made_in.shape == here.shape and same(made_in)):
                raise ValueError(
                    "The trajectory was made with another model, whose latents or noise are others; invert with this one: "
                    "pipe.invert(image)."
                )
        flat = layered(given, self.own_settings, self.backbone.defaults())
        if missing := [name for name in REQUIRED if name not in flat]:
            raise ValueError(
                f"This model does not say what it is used with, so pass {', '.join(missing)} yourself, or once for all: "
                "EmerDiffPipeline.from_pipe(pipe, …)."
            )
        modes = given.get("mode"), given.get("denoising_steps")
        if flat.get("inversion") == "ddim" and modes in ((None, None), ("exact", None)):
            flat["denoising_steps"] = None  # of a checkpoint's own, which only DDPM has
        settings = Settings(**flat)
        predictor = self._predictor(settings)
        visited = predictor.timesteps if trajectory is None else trajectory.timesteps
        moved = {
            name: min(visited, key=lambda t: abs(t - getattr(settings, name)))
            for name in ("feature_timestep", "modulation_timestep")
            if given.get(name) is None
        }
        return self.checked(settings.replace(**moved), trajectory)

    def checked(self, settings: Settings, trajectory: Trajectory | None = None) -> Settings:
        """Returns settings that this model, and this trajectory, can be used with, else raises a ValueError."""
        predictor, layers = self._predictor(settings), self.backbone.layers()
        check_known("feature_layer", settings.feature_layer, layers)
        check_known("modulation_layer", settings.modulation_layer, layers)
        timesteps = {name: getattr(settings, name) for name in ("feature_timestep", "modulation_timestep")}
        for name, timestep in timesteps.items():
            predictor.check_timestep(name, timestep)
            if trajectory is not None and timestep not in trajectory.latents:
                raise ValueError(
                    f"The trajectory starts at {trajectory.start} and does not reach {name}={timestep}; invert with "
                    f"start_timestep={max(timesteps.values())}."
                )
        steps = settings.denoising_steps
        if steps is not None:  # no more than there are from t_m on
            visited = [t for t in predictor.timesteps if t <= timesteps["modulation_timestep"]]
            settings = settings.replace(denoising_steps=min(steps, len(visited)))
        parts = settings.num_parts
        if parts is not None:  # fewer than segments would leave nothing to tell some of them apart
            settings = settings.replace(num_parts=max(parts, settings.num_masks))
        return settings

    def latent_space(self, denoised: bool = False) -> torch.Tensor:
        """(n,) float32: two numbers of each weight of the autoencoder, unless packed, and the noise schedule: what latents
        mean, in any dtype; and of the network, where it took part in making them (``denoised``)."""
        vae = self.pipe.components.get("vae") or self.pipe.components.get("movq")
        networks = [network for network in (vae, self.denoiser if denoised else None) if network is not None]
        weights = [w.detach() for network in networks for w in network.parameters() if not w.is_meta]
        some = [w[(0,) * (w.ndim - 1)][:2] for w in weights if type(w) is torch.Tensor and w.ndim]
        config = {**getattr(vae, "config", {}), **self.pipe.scheduler.config}
        names = ("beta_start", "beta_end", "shift", "num_train_timesteps", "scaling_factor", "shift_factor")
        some.append(torch.tensor([float(config.get(name) or 0) for name in names]))
        if (alphas := getattr(self.pipe.scheduler, "alphas_cumprod", None)) is not None:
            some.append(alphas[:: max(1, len(alphas) // 4)].float())
        if denoised:  # any number for each prediction type
            some.append(torch.tensor([float(len(config.get("prediction_type") or ""))]))
        return torch.cat([numbers.to(some[0].device, torch.float32) for numbers in some]).cpu()

    # -- images, latents, predictions -------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, image: image_io.ImageInput, processing_resolution: int | None = None) -> torch.Tensor:
        """Latents x₀, (1, C, h, w) float32.

        The image is processed at about ``processing_resolution`` squared pixels; by default, at the size the model was made for.
        """
        image = image_io.load_image(image)
        resolution = self.resolve(processing_resolution=processing_resolution).processing_resolution
        size = image_io.processing_size((image.height, image.width), resolution, self.backbone.size_multiple)
        with ChannelsLast():
            return self.backbone.encode(image_io.to_tensor(image, size).to(self.backbone.device))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W) float32 in [0, 1], as many rows at a time as memory allows."""
        rows, vae = len(latents), getattr(self.pipe, "vae", None)
        if vae is not None:
            pixels = latents.shape[2] * latents.shape[3] * self.vae_scale_factor**2
            most = 8 if self.backbone.device.type == "cpu" else 64  # CPUs' caches like small batches
            channels = getattr(vae.config, "block_out_channels", None) or [128]
            rows = affordable_rows(self.backbone.device, vae.dtype, max(channels[:2]), pixels, most=most)
        with ChannelsLast():
            images = [self.backbone.decode(some) for some in latents.split(rows)]
        return torch.cat([(one / 2 + 0.5).clamp(0, 1) for one in images])

    def predictor(
        self,
        num_inference_steps: int | None = None,
        prompt: str | None = "",
        processing_resolution: int | None = None,
    ) -> Predictor:
        """The network with this prompt and N inference steps (default: the checkpoint's); without one, only its schedule."""
        if num_inference_steps is None or processing_resolution is None:
            usual = self.resolve()
            num_inference_steps = num_inference_steps or usual.num_inference_steps
            processing_resolution = processing_resolution or usual.processing_resolution
        self._check_noise()  # a scheduler can be put in its place later
        condition = None if prompt is None else self.condition(prompt)
        return Predictor(self.backbone, condition, num_inference_steps, processing_resolution)

    def _predictor(self, settings: Settings, prompt: str | None = None) -> Predictor:
        return self.predictor(settings.num_inference_steps, prompt, settings.processing_resolution)

    @torch.no_grad()
    def condition(self, prompt: str) -> Mapping[str, Any]:
        """What the network is conditioned on; warns of a prompt that is longer than what is read of it.

        Raises:
            ValueError: a prompt for a model that is conditioned on images instead, or no text encoder.
        """
        self._require("tokenizer", "text_encoder")
        if (read := self.prompt_read(prompt)) != prompt:
            warnings.warn(
                f"The prompt is longer than what this model reads; it ends at {read[-40:]!r}.", stacklevel=3
            )
        with exclusive(self.denoiser):  # tokenizers keep how they were called last
            return self.backbone.condition(prompt)

    def prompt_read(self, prompt: str) -> str:
        """The part of a prompt that fits into the text encoders; all of it, as a rule."""
        if not prompt:
            return prompt

        def read(part: TextTokens) -> str:
            ids = part.tokenizer(part.text, truncation=False).input_ids
            if len(ids) <= part.limit:
                return prompt
            return part.tokenizer.decode(ids[: part.limit - 1], skip_special_tokens=True).strip()

        return max(map(read, self.backbone.text_tokens(prompt)), key=len, default=prompt)

    def warn_of_prediction_type(self, clean: torch.Tensor, predictor: Predictor) -> None:
        """Once: at the highest noise level, ε-prediction gives the noise, and v- and x₀-prediction hardly any of it."""
        if self.looked_at_prediction_type or self.backbone.is_flow:
            return
        self.looked_at_prediction_type = True
        noise = draw_noise(clean, 1, torch.Generator(clean.device).manual_seed(0))
        config = predictor.scheduler.config
        t, kind = config.num_train_timesteps - 1, config.prediction_type
        output = predictor.network_output(predictor.add_noise(clean, noise, t), t)
        share = float((output * noise).mean() / noise.square().mean())
        if (share > 0.5) != (kind == "epsilon"):
            warnings.warn(
                f"At t = {t} the network's output holds {share:.2f} of the noise, where its scheduler's prediction_type="
                f"{kind!r} means {1 if kind == 'epsilon' else 0:d}, so that x̂₀ is far off; the setting gets lost when "
                "checkpoints are converted: set it in scheduler/scheduler_config.json.",
                stacklevel=4,
            )

    # -- memory -----------------------------------------------------------------------------------------------------

    def default_mask_batch_size(self, latents: torch.Tensor, one_sided: bool = False) -> int:
        """Masks whose rows fit into free memory together."""
        return max(1, (self.affordable_rows(latents) - 1) // (1 if one_sided else 2))

    def affordable_rows(self, latents: torch.Tensor) -> int:
        """Rows like these latents that the network can be called with at once."""
        widest = self.backbone.widest_maps(*latents.shape[2:])
        return affordable_rows(self.backbone.device, self.dtype, *widest)


def affordable_rows(
    device: torch.device, dtype: torch.dtype, channels: int, pixels: int, most: int = 64
) -> int:
    """Batch rows of a network that two fifths of the free memory hold, at least 1: an estimate, so whoever uses it halves the
    batch when it was wrong.

    A row is taken to need eight feature maps of ``channels`` × ``pixels`` at the network's widest resolution.
    """
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + reserved
    return int(max(1, min(most, 0.4 * free / (8 * channels * pixels * dtype.itemsize))))


def network_state(network: torch.nn.Module) -> dict[str, Any]:
    """What was done to a network in memory that neither weights nor configuration say: tiling, FreeU, adapters' strengths,
    attention processors, diffusers' caches. With hooks, methods or processors of somebody's own, no result is another's.
    """
    everywhere = torch.nn.modules.module
    hooks = [*everywhere._global_forward_hooks.values(), *everywhere._global_forward_pre_hooks.values()]
    state: dict[str, Any] = {}
    for name, module in network.named_modules():
        processor = getattr(module, "processor", None)
        hooks += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        hooks += [*replaced_methods(module), *([] if processor is None else [type(processor)])]
        caches = sorted(getattr(getattr(module, "_diffusers_hook", None), "hooks", ()))
        state[name] = [_plain(module), type(processor).__name__, _plain(processor), caches]
    if any(str(getattr(hook, "__module__", "")).split(".")[0] not in _OWN_HOOKS for hook in hooks):
        state["hooks"] = secrets.token_hex()
    return state


def replaced_methods(owner: Any) -> list[Callable[..., Any]]:
    """What was put in the place of methods of an object."""
    return [held for name, held in vars(owner).items() if callable(held) and hasattr(type(owner), name)]


def _plain(owner: Any) -> dict[str, str]:
    """An object's numbers, switches and words, alone or in lists and mappings; not where it was loaded from."""
    kinds, held = (bool, int, float, str, dict, list, tuple), getattr(owner, "__dict__", {})
    known = {"_active_adapter", "_disable_adapters", "_attention_backend"}
    drops = any(held.get(name) for name in ("p", "dropout", "attention_dropout"))
    left_out = {"name_or_path"} if drops else {"name_or_path", "training"}  # it makes no difference elsewhere
    wanted = lambda name: name in known or not (name.startswith("_") or name in left_out)
    return {n: repr(v) for n, v in held.items() if isinstance(v, kinds) and wanted(n)}
