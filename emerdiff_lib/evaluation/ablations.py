"""The paper's ablations (Tables 4–9, Fig. 14) and some of ours: ``python -m emerdiff_lib.evaluation.ablations``.

Every sweep changes one thing about the checkpoint's defaults. Results are kept per scene and setting, so runs can be stopped,
go on, and share what sweeps have in common. Sweeps of the modulation keep the coarse masks of the defaults.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from skimage.filters import sobel
from skimage.segmentation import find_boundaries
from tqdm.auto import tqdm

from ..attention import attention_layers, layer_grid
from ..clustering import cluster_queries
from ..features import extract_queries, noise_ensemble
from ..pipeline import EmerDiffOutput, EmerDiffPipeline
from ..toyscapes import Scene, Toyscapes
from .metrics import boundary_scores, contingency_table
from .protocols import (
    Record,
    bootstrap,
    concept_embeddings,
    mean_statistic,
    miou_statistic,
    modified,
    oracle,
)
from .store import ResultStore, fingerprint

CAPTION = "the scene's caption"
FEATURES = ("smoothed", "with positions")


@dataclass(frozen=True)
class Sweep:
    """One ablation.

    Attributes:
        title: what is changed; ``source``: where the paper shows it, or "".
        points: {label: settings of the pipeline}. The settings "features" (see :data:`FEATURES`) and ``prompt`` =
            :data:`CAPTION` are handled here.
        same_masks: keep the coarse masks of the defaults, where only the modulation is meant to change.
    """

    title: str
    source: str
    points: dict[str, dict] = field(default_factory=dict)
    same_masks: bool = False


def sweeps(pipe: EmerDiffPipeline) -> dict[str, Sweep]:
    """All sweeps around the defaults of this checkpoint; the layers are those of its feature block."""
    defaults = pipe.default_settings()
    block = defaults["feature_layer"].split(".attentions.")[0]
    layers = [name for name in attention_layers(pipe.unet, "attn2") if name.startswith(block + ".")]
    short = lambda name: name.split(".transformer_blocks")[0].removeprefix("up_blocks.")
    k, t_m, strength = defaults["num_masks"], defaults["modulation_timestep"], defaults["modulation_strength"]
    each = lambda name, values: {str(v): {name: v} for v in values}
    around = lambda value, others: sorted({value, *others})
    return {
        "num_masks": Sweep("number of masks K", "Table 4", each("num_masks", around(k, (8, 16, 24)))),
        "layer": Sweep("layer of the queries · of the modulation", "Table 5", {
            f"{short(a)} · {short(b)}": {"feature_layer": a, "modulation_layer": b} for a in layers for b in layers
        }),  # fmt: skip
        "feature_timestep": Sweep("t_f, a single noise draw", "Table 6", {
            str(t): {"feature_timestep": t, "noise_ensemble_size": 1} for t in (1, 101, 281, 481)
        }),  # fmt: skip
        "modulation_timestep": Sweep(
            "t_m", "Table 7", each("modulation_timestep", around(t_m, (81, 281, 381, 681))), same_masks=True
        ),
        "modulation_strength": Sweep(
            "λ", "Table 8", each("modulation_strength", around(strength, (1.0, 3.0, 30.0, 100.0))), same_masks=True
        ),
        "attention_injection": Sweep(
            "attention injection", "Table 9", {"with": {}, "without": {"attention_injection": False}}, same_masks=True
        ),
        "placement": Sweep("layer × placement × λ", "Fig. 14", {
            f"{short(layer)} · {place.split('_')[0]} f · λ {value:g}": {
                "modulation_layer": layer, "offset_placement": place, "modulation_strength": value}
            for layer in layers for place in ("after_projection", "before_projection") for value in (1.0, strength, 100.0)
        }, same_masks=True),  # fmt: skip
        "noise_ensemble": Sweep("noise draws for the queries", "", each("noise_ensemble_size", (1, 4, 8))),
        "features": Sweep(
            "queries before k-means", "", {"as they are": {}} | {name: {"features": name} for name in FEATURES}
        ),
        "differences": Sweep(
            "I⁻ − I⁺, or I⁻ − I", "", {"paired": {}, "one-sided": {"one_sided": True}}, same_masks=True
        ),
        "prompt": Sweep("text condition", "", {"empty": {}, "caption": {"prompt": CAPTION}}),
    }  # fmt: skip


def _transformed(queries: torch.Tensor, kind: str) -> torch.Tensor:
    """Queries (h, w, d) smoothed over 0.7 cells, or with positions appended at twice their total deviation."""
    if kind == "smoothed":
        return torch.from_numpy(gaussian_filter(queries.numpy(), (0.7, 0.7, 0)))
    height, width, _ = queries.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    positions = torch.stack([y, x], -1) / torch.stack([y, x], -1).flatten(0, 1).std(0)
    total = queries.flatten(0, 1).var(0).sum().sqrt()
    return torch.cat([queries, positions * (2 * total / 2**0.5)], -1)


@torch.no_grad()
def evaluate_setting(pipe: EmerDiffPipeline, scene: Scene, settings: dict, coarse_masks: list | None = None) -> dict:
    """One scene under one setting: tables, embeddings and boundary F of EmerDiff and of its bilinear masks, for JSON."""
    generator, settings = lambda: torch.Generator().manual_seed(scene.seed), dict(settings)
    if settings.get("prompt") == CAPTION:
        settings["prompt"] = scene.caption
    masks = None if coarse_masks is None else np.array(coarse_masks, bool)
    if kind := settings.pop("features", None):
        used, seeded = pipe.default_settings() | settings, generator()
        denoiser, t, layer = pipe.denoiser(), used["feature_timestep"], used["feature_layer"]
        start = max(t, used["modulation_timestep"])  # as the pipeline does, so that the noises are the same
        trajectory = pipe.invert(scene.image, start_timestep=start, generator=seeded)
        noisy = noise_ensemble(denoiser, trajectory, t, used["noise_ensemble_size"], seeded)
        queries = extract_queries(denoiser, noisy, t, [layer])[layer]
        masks = cluster_queries(_transformed(queries, kind), used["num_masks"], scene.seed).numpy()
    output = pipe(scene.image, coarse_masks=masks, generator=generator(), output_difference_maps=True, **settings)
    classes = len(Toyscapes.coarse_class_names)
    result = {
        "embeddings": np.round(output.mask_embeddings.astype(float), 5).tolist(),
        "coarse_masks": output.coarse_masks.astype(int).tolist(), "seconds": sum(output.timings.values()),
        "layer_rms": layer_output_rms(pipe, scene, output.settings), "hints": label_free_hints(scene.image, output),
    }  # fmt: skip
    for name, labels in (("EmerDiff", output.labels), ("bilinear", output.baseline_labels)):
        table = contingency_table(labels, scene.coarse_labels, len(output.coarse_masks), classes)
        result[name] = {"table": table.tolist(), "boundary_f": boundary_scores(labels, scene.labels, 2)[2]}
    return result


def label_free_hints(image: Image.Image, output: EmerDiffOutput) -> dict[str, float]:
    """What a rule for λ could go by, without labels.

    Returns:
        - "response": mean over the pixels of the largest difference, in [0, √3].
        - "margin": mean of (largest − second) / largest difference, in [0, 1].
        - "agreement": share of pixels that keep the label of the bilinear masks.
        - "edge contrast": mean gradient of the image on the segments' boundaries over that of the whole image.
    """
    second, first = (
        np.sort(output.difference_maps, 0)[-2:] if len(output.difference_maps) > 1 else [0, *output.difference_maps]
    )
    gradient = sobel(rgb2gray(np.asarray(image.convert("RGB"))))
    edges = find_boundaries(output.labels)
    return {
        "response": float(first.mean()),
        "margin": float(((first - second) / np.maximum(first, 1e-8)).mean()),
        "agreement": float((output.labels == output.baseline_labels).mean()),
        "edge contrast": float(gradient[edges].mean() / max(gradient.mean(), 1e-8)) if edges.any() else 0.0,
    }


@torch.no_grad()
def layer_output_rms(pipe: EmerDiffPipeline, scene: Scene, settings: dict) -> float:
    """Root mean square of the modulated layer's own output at t_m: what λ is added to."""
    t, layer = settings["modulation_timestep"], settings["modulation_layer"]
    denoiser, kept = pipe.denoiser(settings["num_inference_steps"], settings["prompt"]), []
    latents = pipe.invert(
        scene.image, start_timestep=t, generator=torch.Generator().manual_seed(scene.seed)
    ).latents[t]  # fmt: skip
    module = pipe.unet.get_submodule(layer)
    handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        denoiser.unet_output(latents, t)
    finally:
        handle.remove()
    assert kept[0].shape[1] == np.prod(layer_grid(pipe.unet, layer, *latents.shape[2:]))
    return float(kept[0].float().square().mean().sqrt())


def run(
    pipe: EmerDiffPipeline, chosen: dict[str, Sweep], seeds: range, output_dir: Path | str, progress=tqdm
) -> dict[str, dict[str, list[dict]]]:
    """{sweep: {label: results, scene by scene}}; what ``output_dir`` has already is not computed again."""
    store = ResultStore(output_dir, {"weights": fingerprint(pipe.unet), "defaults": pipe.default_settings()})

    def result(seed: int, settings: dict, masks: list | None, same_masks: bool) -> dict:
        content = json.dumps(
            [settings, same_masks and bool(settings)], sort_keys=True
        )  # empty settings are the defaults
        key = f"{seed:06}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        return store.recall(key) or store.keep(key, evaluate_setting(pipe, Toyscapes.from_seed(seed), settings, masks))

    found = {name: {label: [] for label in sweep.points} for name, sweep in chosen.items()}
    defaults = pipe.default_settings()
    for seed in progress(seeds, desc="scenes"):
        masks = result(seed, {}, None, False)["coarse_masks"]
        for name, sweep in chosen.items():
            for label, settings in sweep.points.items():
                changed = {key: value for key, value in settings.items() if defaults.get(key) != value}
                changed = {k: v for k, v in changed.items() if (k, v) != ("offset_placement", "after_projection")}
                same = masks if sweep.same_masks and changed else None
                found[name][label].append(result(seed, changed, same, sweep.same_masks))
    return found


def records(results: list[dict], kind: str) -> list[Record]:
    """``kind`` "EmerDiff" or "bilinear", scene by scene."""
    return [Record(np.array(r[kind]["table"]), np.array(r["embeddings"])) for r in results]


def table(points: dict[str, list[dict]], draws: int = 500) -> pd.DataFrame:
    """A row per point and kind: oracle and modified mIoU (same scenes) and boundary F in points, with 95 % intervals."""
    rows = []
    for label, results in points.items():
        for kind in ("EmerDiff", "bilinear"):
            own = records(results, kind)
            concepts = concept_embeddings(own)
            edges = np.array([r[kind]["boundary_f"] for r in results])
            statistics = {
                "oracle mIoU": miou_statistic(np.stack([oracle(r) for r in own])),
                "modified mIoU": miou_statistic(np.stack([modified(r, concepts) for r in own])),
                "boundary F": mean_statistic(edges),
            }
            for measure, statistic in statistics.items():
                value, low, high = (100 * v for v in bootstrap(statistic, len(own), draws))
                rows.append(
                    {"setting": label, "kind": kind, "measure": measure, "value": value, "low": low, "high": high}
                )
    return pd.DataFrame(rows)


def paired(first: list[dict], second: list[dict], measure: str, draws: int = 500) -> tuple[float, float, float]:
    """(difference, low, high) in points of EmerDiff's "oracle mIoU" or "boundary F" on the same scenes, 95 % bootstrap.

    Raises:
        ValueError: for another measure.
    """
    if measure == "oracle mIoU":
        statistic = miou_statistic(*(np.stack([oracle(r) for r in records(x, "EmerDiff")]) for x in (first, second)))
    elif measure == "boundary F":
        statistic = mean_statistic(*(np.array([r["EmerDiff"]["boundary_f"] for r in x]) for x in (first, second)))
    else:
        raise ValueError(f"measure={measure!r} is unknown; choose 'oracle mIoU' or 'boundary F'.")
    return tuple(100 * value for value in bootstrap(statistic, len(first), draws))


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="toyscapes", help="name, diffusers folder or hub id")
    parser.add_argument("--sweeps", nargs="*", help="which; all by default")
    parser.add_argument("--num-scenes", type=int, default=32, help="scenes")
    parser.add_argument(
        "--first-scene", type=int, default=300, help="seed of the first: 0–999 are test scenes, 1000–1999 validation"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"), help="results per scene and setting")
    args = parser.parse_args(argv)
    pipe = EmerDiffPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    chosen = sweeps(pipe)
    if args.sweeps:
        if unknown := [name for name in args.sweeps if name not in chosen]:
            raise ValueError(f"There is no sweep {unknown[0]!r}; choose from {', '.join(map(repr, chosen))}.")
        chosen = {name: chosen[name] for name in args.sweeps}
    seeds = range(args.first_scene, args.first_scene + args.num_scenes)
    usual = run(pipe, {"": Sweep("", "", {"": {}})}, seeds, args.output)[""][""]
    found = run(pipe, chosen, seeds, args.output)
    tables = {name: table(points) for name, points in found.items()}
    for name, sweep in chosen.items():
        print(f"\n{sweep.title}" + (f" (paper: {sweep.source})" if sweep.source else ""))
        wide = tables[name].pivot(index="setting", columns=["kind", "measure"], values="value")
        print(wide.loc[list(sweep.points)].round(1).to_string())
        for label, results in found[name].items():
            if results != usual:
                values = [(m, *paired(results, usual, m)) for m in ("oracle mIoU", "boundary F")]
                print(f"  {label} − default:", ", ".join("{} {:+.1f} [{:+.1f}, {:+.1f}]".format(*v) for v in values))
    return tables


if __name__ == "__main__":
    main()
