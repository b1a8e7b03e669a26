"""The derivative of the image with respect to λ, in place of a difference of two images: does it segment better?

``python -m emerdiff_lib.experiments.tangents --num-scenes 12``. With injected attention the maps are constants, so one forward
pass of tangents per mask gives ∂I/∂λ at λ = 0 exactly: through self-attention it is softmax(QKᵀ/√d)·dV, injected
cross-attention has none, and ``torch.func.jvp`` knows everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attention import attention_layers, attention_processors, layer_grid
from ..clustering import part_masks
from ..denoiser import Denoiser
from ..inversion import Trajectory, reverse_mean_and_std
from ..latents import to_pixels
from ..modulation import resize_offsets, shortened
from ..pipeline import EmerDiffPipeline
from ..responses import ImageResponses, quantise
from ..settings import Perturbation
from ..stages import CoarseMasks
from ..timing import timed
from .ablation_tables import level
from .ablations import Study, read_scenes_command, scenes_command
from .defaults import mean_score, mean_score_difference
from .manifest import write_manifest
from .names import EMERDIFF
from .selection import bar

TANGENT = "λ → 0, tangents"
PUSHES: dict[str, dict[str, Any]] = {
    "λ = 1": {"modulation_strength": 1.0},
    "λ = 3": {"modulation_strength": 3.0},
    "λ = 10": {"modulation_strength": 10.0},
    "λ = ±3": {"modulation_strength": 3.0, "one_sided": False},
    "λ = ±10": {"modulation_strength": 10.0, "one_sided": False},
}
Decode = Callable[[torch.Tensor], torch.Tensor]


class TangentAttention:
    """Attention whose probabilities are constants of the unmodulated trajectory; only values carry tangents.

    Args:
        offset: (1, tokens) added to the output after or before the projection, as
            :class:`~emerdiff_lib.attention.Modulation` has it; None for layers that are not modulated.
    """

    def __init__(self, offset: torch.Tensor | None = None, placement: str = "after_projection"):
        self.offset, self.placement = offset, placement

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states=None, *args, **kwargs
    ) -> torch.Tensor:
        heads = lambda a: a.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        own = hidden_states.detach()  # no tangents
        context = own if encoder_hidden_states is None else encoder_hidden_states
        values = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        scores = heads(attn.to_q(own)) * attn.scale @ heads(attn.to_k(context)).transpose(-2, -1)
        output = (scores.softmax(-1) @ heads(attn.to_v(values))).transpose(1, 2).flatten(2)
        if self.offset is not None and self.placement == "before_projection":
            output = output + self.offset[..., None].to(output.dtype)
        output = attn.to_out[1](attn.to_out[0](output))
        if self.offset is not None and self.placement == "after_projection":
            output = output + self.offset[..., None].to(output.dtype)
        return output


@contextmanager
def _tangents(unet: UNet2DConditionModel, modulated: dict[str, TangentAttention]) -> Iterator[None]:
    plain = {name: TangentAttention() for name in attention_layers(unet)}
    with attention_processors(unet, plain | modulated), sdpa_kernel(SDPBackend.MATH):
        yield


def image_tangents(
    denoiser: Denoiser,
    decode: Decode,
    trajectory: Trajectory,
    masks: torch.Tensor,
    perturbation: Perturbation,
    timesteps: list[int] | None = None,
    chunk_size: int = 16,
) -> torch.Tensor:
    """∂I/∂λ of every mask at λ = 0, through all remaining steps and the decoder.

    Args:
        decode: latents → images, differentiable and without a clamp, whose derivative would be zero at black and white.
        masks: (K, h, w) bool.
        perturbation: the layer, t_m and placement; attention is injected whatever it says.
        timesteps: t_m and those visited after it, descending; by default all that the trajectory has.

    Returns:
        (K, 3, H, W) float32 on the CPU.
    """
    if not isinstance(denoiser.unet, UNet2DConditionModel):
        raise ValueError(
            "Tangents are worked out for U-Nets with cross-attention; this model is a transformer."
        )
    t_m = perturbation.modulation_timestep
    visited = timesteps or [t for t in trajectory.timesteps if t <= t_m]
    grid = layer_grid(denoiser.unet, perturbation.modulation_layer, *trajectory.clean_latents.shape[2:])
    offsets = resize_offsets(masks.to(trajectory.clean_latents.dtype), grid).to(denoiser.unet.device)

    def image(offset: torch.Tensor) -> torch.Tensor:
        """I as a function of one mask's offset (1, tokens); the recorded trajectory, which is where its value stays."""
        latents = trajectory.latents[t_m]
        last = None if trajectory.method == "ddim" else -1
        for t, previous in zip(visited, [*visited[1:], last], strict=True):
            modulated = TangentAttention(offset, perturbation.offset_placement)
            with _tangents(denoiser.unet, {perturbation.modulation_layer: modulated} if t == t_m else {}):
                output = denoiser.unet_output(latents, t)
            predictions = denoiser.convert(output, latents, t)
            latents, _ = reverse_mean_and_std(denoiser, latents, predictions, t, trajectory.method, previous)
            if trajectory.method == "ddpm" and previous is not None:  # the recorded noise: a constant
                latents = latents + (trajectory.latents_at(previous) - latents.detach())
        with sdpa_kernel(SDPBackend.MATH):
            return decode(latents)

    def derivative(direction: torch.Tensor) -> torch.Tensor:
        _, tangent = jvp(image, (torch.zeros_like(direction),), (direction,))
        return tangent[0]

    parts = [vmap(derivative)(part[:, None]).float().cpu() for part in offsets.split(chunk_size)]
    return torch.cat(parts)


@torch.no_grad()
def tangent_responses(pipe: EmerDiffPipeline, coarse: CoarseMasks) -> ImageResponses:
    """As ``pipe.respond(coarse)`` in pixel mode, of derivatives (the sign is that of −λ)."""
    used, trajectory = coarse.settings, coarse.trajectory
    parts = part_masks(coarse.queries, used.assignment.num_parts or len(coarse.masks))
    t_m = used.perturbation.modulation_timestep
    visited = shortened(trajectory.timesteps, t_m, used.shortcuts.denoising_steps)
    found = image_tangents(
        pipe.denoiser(used.inversion.num_inference_steps, used.inversion.prompt),
        lambda latents: to_pixels(pipe.vae, latents) / 2 + 0.5,
        trajectory,
        parts,
        used.perturbation,
        visited,
    )
    size = coarse.processing_size(pipe.vae_scale_factor)
    return ImageResponses(parts, *quantise(-found), coarse.queries, coarse.image, size, used)


def unlike(one: ImageResponses, other: ImageResponses) -> float:
    """Mean over the parts of 1 − cosine between their responses: 0 where they differ in strength alone."""
    vectors = [r.responses_to(r.parts).flatten(1) for r in (one, other)]
    return float(1 - torch.cosine_similarity(*vectors, dim=1).mean())


def compare(study: Study, progress: Callable | None = None) -> tuple[dict[str, list[dict]], pd.DataFrame]:
    """({way of pushing: results, scene by scene}, a row per way and scene: "unlike" the tangents, and "seconds")."""
    pipe, rows = study.pipe, []
    found: dict[str, list[dict]] = {name: [] for name in (TANGENT, *PUSHES)}
    for seed in (progress or bar("scenes"))(study.seeds):
        bench = study.trials.bench(seed)
        coarse = bench.coarse(study.usual)
        tangents, seconds = timed(lambda: tangent_responses(pipe, coarse))  # noqa: B023
        for name in found:
            answers = tangents
            if name != TANGENT:
                answers, seconds = timed(lambda: pipe.respond(coarse, **PUSHES[name]))  # noqa: B023
            labels = pipe.assign(answers)
            embeddings = answers.cells_of(labels)[1].numpy()
            found[name].append(bench.scored(embeddings, {EMERDIFF: labels}))
            rows.append({"way": name, "seed": seed, "unlike": unlike(answers, tangents), "seconds": seconds})
    return found, pd.DataFrame(rows)


def main(argv: list[str] | None = None) -> pd.DataFrame:
    args = scenes_command(__doc__, "runs/tangents", first_scene=1240, num_scenes=12).parse_args(argv)
    pipe, seeds, settings, how = read_scenes_command(args)
    study = Study(pipe, seeds, args.output, {"mode": "pixel"} | settings, how)
    found, rows = compare(study)
    means, table = rows.groupby("way", sort=False)[["unlike", "seconds"]].mean(), []
    for name, results in found.items():
        difference = mean_score_difference(results, found[TANGENT])
        scores = {
            measure: level(results, measure) for measure in ("oracle mIoU", "modified mIoU", "boundary F")
        }
        row = {"way": name} | scores | {"mean": mean_score(results)}
        row |= dict(zip(("− tangents", "low", "high"), difference, strict=True))
        table.append(row | {"unlike": means.loc[name, "unlike"], "s": means.loc[name, "seconds"]})
    result = pd.DataFrame(table).set_index("way")
    print(result.round(2).to_string())
    slower = means.loc[TANGENT, "seconds"] / means.loc["λ = 3", "seconds"]
    other = [
        name for name, row in result.iterrows() if name != TANGENT and (row["low"] > 0 or row["high"] < 0)
    ]
    notes = [
        f"Tangents take {slower:.1f} times as long as one-sided differences of as many masks.",
        f"By the mean of oracle mIoU and boundary F, {', '.join(other) or 'no λ'} can be told from the tangents.",
        f"Responses to λ = 10 are {result.loc['λ = 10', 'unlike']:.2f} from the tangents' (1 − cosine), to λ = ±10 "
        f"{result.loc['λ = ±10', 'unlike']:.2f}, to λ = 3 {result.loc['λ = 3', 'unlike']:.2f}.",
    ]
    print("\n".join(notes))
    if not how.shard:
        write_manifest(
            args.output / "tangents.json",
            title="Tangents in place of differences",
            question="Does the derivative with respect to λ segment better than a push of ±λ?",
            command=f"python -m emerdiff_lib.experiments.tangents --model {args.model} --first-scene {args.first_scene} "
            f"--num-scenes {args.num_scenes}",
            settings=study.usual,
            seeds={"tuning": seeds},
            tables={"ways of pushing": result},
            notes=notes,
        )
    return result


if __name__ == "__main__":
    main()
