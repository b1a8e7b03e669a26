"""What is swept: the paper's ablations (Tables 4–9, Fig. 14) and some of ours, around the defaults of any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import SD3Transformer2DModel

from ..attention import attention_layers, layer_grid
from ..pipeline import EmerDiffPipeline
from ..settings import MODES, check_known

CAPTION = "the scene's caption"  # as a prompt: each scene's own
FEATURES = ("smoothed", "with positions")


@dataclass(frozen=True)
class Sweep:
    """One thing changed, in several ways.

    Attributes:
        title: what is changed.
        points: {label: settings of the pipeline, by flat name}. Two things are known here alone: the setting "features" (one of
            :data:`FEATURES`) and the prompt :data:`CAPTION`.
        default: label of the point that changes nothing, None if no point does.
        source: where the paper shows it, or "".
        paper: what the paper finds, one sentence, or "".
        paper_best: labels that are best according to it; all of them where it finds no difference.
        measure: the score that ``paper`` is held against.
        logarithmic: whether numbers are best drawn on a logarithmic axis.
        numbers: what the labels say where all are numbers, else None.
    """

    title: str
    points: dict[str, dict[str, Any]]
    default: str | None = None
    source: str = ""
    paper: str = ""
    paper_best: tuple[str, ...] = ()
    measure: str = "oracle mIoU"
    logarithmic: bool = False

    @property
    def numbers(self) -> list[float] | None:
        try:
            return [float(label) for label in self.points]
        except ValueError:
            return None


def sweeps(pipe: EmerDiffPipeline, **settings: Any) -> dict[str, Sweep]:
    """All sweeps around this checkpoint's defaults, or around ``settings`` over them.

    Grids follow from the defaults and stay within what the checkpoint has: K within the cells of its feature grid, t_f and t_m
    on its inference timesteps, layers those of the block that the queries are from.
    """
    usual = pipe.resolve(**settings).to_dict()
    side = usual["processing_resolution"] // pipe.vae_scale_factor
    cells = int(np.prod(layer_grid(pipe.unet, usual["feature_layer"], side, side)))
    near = nearest_timestep(pipe, usual["num_inference_steps"])
    k, t_m, strength = (usual[name] for name in ("num_masks", "modulation_timestep", "modulation_strength"))
    counts = {min(max(1, round(k * share)), cells) for share in (2 / 3, 4 / 3, 2)} | {k}
    t_ms, t_fs = {t_m, *map(near, (81, 281, 381, 681))}, {*map(near, (1, 101, 281, 481))}
    strengths = [strength * factor for factor in (0.1, 0.3, 1, 3, 10)]
    layers = swept_layers(pipe, usual)
    short = short_layer_names(layers)

    def sweep(title: str, points: dict[str, dict], source: str = "", **others: Any) -> Sweep:
        unchanged = [label for label, changes in points.items() if not changed(changes, usual)]
        return Sweep(title, points, unchanged[0] if unchanged else None, source, **others)

    each = lambda name, values: {f"{value:g}": {name: value} for value in sorted(values)}
    pairs = {(a, b): f"{short[a]} · {short[b]}" for a in layers for b in layers}
    found = {
        "num_masks": sweep(
            "number of masks K",
            each("num_masks", counts),
            "Table 4",
            measure="modified mIoU",
            paper="K hardly matters",
            paper_best=tuple(f"{count:g}" for count in sorted(counts)),
        ),
        "layer": sweep(
            "layer of the queries · of the modulation",
            {label: {"feature_layer": a, "modulation_layer": b} for (a, b), label in pairs.items()},
            "Table 5",
            paper="the layers of a block are alike",
            paper_best=tuple(pairs.values()),
        ),
        "feature_timestep": sweep(
            "t_f, a single noise draw",
            {f"{t}": {"feature_timestep": t, "noise_ensemble_size": 1} for t in sorted(t_fs)},
            "Table 6",
            paper="the smaller t_f, the better",
            paper_best=(f"{min(t_fs)}",),
        ),
        "modulation_timestep": sweep(
            "t_m",
            each("modulation_timestep", t_ms),
            "Table 7",
            paper="t_m is best from 281 to 481",
            paper_best=tuple(f"{t}" for t in sorted(t_ms) if near(281) <= t <= near(481)),
        ),
        "modulation_strength": sweep(
            "λ",
            each("modulation_strength", strengths),
            "Table 8",
            paper="λ = 10 is best",
            paper_best=("10",),
            logarithmic=True,
        ),
        "attention_injection": sweep(
            "attention injection",
            {"with": {"attention_injection": True}, "without": {"attention_injection": False}},
            "Table 9",
            paper="it helps",
            paper_best=("with",),
        ),
        "placement": sweep(
            "layer × placement × λ",
            {
                f"{short[layer]} · {place.split('_')[0]} f · λ {value:g}": {
                    "modulation_layer": layer,
                    "offset_placement": place,
                    "modulation_strength": value,
                }
                for layer in layers
                for place in ("after_projection", "before_projection")
                for value in (strengths[0], strength, strengths[-1])
            },
            "Fig. 14",
        ),
        "noise_ensemble": sweep(
            "noise draws for the queries",
            each("noise_ensemble_size", {1, 4, 8, usual["noise_ensemble_size"]}),
        ),
        "features": sweep(
            "queries before k-means", {"as they are": {}} | {x: {"features": x} for x in FEATURES}
        ),
        "differences": sweep(
            "I⁻ − I⁺, or I⁻ − I", {"paired": {"one_sided": False}, "one-sided": {"one_sided": True}}
        ),
        "mode": sweep(
            "mode: from responses to segments", {name: {"mode": name} | MODES[name] for name in MODES}
        ),
        "num_parts": sweep(
            "small masks pushed in pixel mode",
            {
                f"{p}": {"mode": "pixel"} | MODES["pixel"] | {"num_parts": p}
                for p in (16, 32, 64, 128)
                if p <= cells
            },
            logarithmic=True,
        ),
    }
    if pipe.text_encoder is not None:
        texts = {"empty": {"prompt": ""}, "caption": {"prompt": CAPTION}}
        found["prompt"] = sweep("text condition", texts)
    return found


def swept_layers(pipe: EmerDiffPipeline, usual: dict[str, Any]) -> list[str]:
    """Cross-attention layers of the block that the queries are from, the first of each deep attention, and the modulated one; all
    of a transformer's."""
    if isinstance(pipe.unet, SD3Transformer2DModel):
        return attention_layers(pipe.unet, "attn2")
    block = usual["feature_layer"].split(".attentions.")[0] + "."
    own = (usual["feature_layer"], usual["modulation_layer"])
    first = lambda name: (
        name.startswith(block) and ".transformer_blocks." not in name.replace(".transformer_blocks.0.", ".")
    )
    return [name for name in attention_layers(pipe.unet, "attn2") if first(name) or name in own]


def nearest_timestep(pipe: EmerDiffPipeline, num_inference_steps: int) -> Callable[[int], int]:
    """From one of the paper's timesteps, of 1000, to the nearest inference timestep of this model."""
    known = pipe.denoiser(num_inference_steps, prompt=None).timesteps
    scale = pipe.scheduler.config.num_train_timesteps / 1000
    return lambda timestep: min(known, key=lambda t: abs(t - timestep * scale))


def short_layer_names(layers: Iterable[str]) -> dict[str, str]:
    """{layer: as short as it stays unambiguous among them}: "up 2.0" for "up_blocks.2.attentions.0.[…].attn2"."""
    layers = list(layers)
    short = lambda name: (
        name.split(".transformer_blocks")[0]
        .removesuffix(".attn")
        .replace("_blocks.", " ")
        .replace("_block", "")
    )
    names = {name: short(name).replace(".attentions.", ".").replace("attentions.", "") for name in layers}
    if len(set(names.values())) < len(names):  # several transformer blocks in one
        names = {
            name: f"{names[name]}.{name.split('.transformer_blocks.')[1].split('.')[0]}" for name in layers
        }
    return names


def choose(available: dict[str, Sweep], wanted: Iterable[str]) -> dict[str, Sweep]:
    """The wanted sweeps, all without any; an unknown name is a ValueError that lists the valid ones and suggests the nearest."""
    names = [check_known("sweep", name, available) for name in wanted]
    return {name: available[name] for name in available if not names or name in names}


def changed(settings: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Those of the ``settings`` that are not as ``usual``."""
    return {name: value for name, value in settings.items() if usual.get(name) != value}
