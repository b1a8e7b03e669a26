"""Where to read and where to push: ``python -m emerdiff_lib.experiments.layers --model toyscapes-transformer``.

Both stages by themselves, at every layer of a model that attends to words. *Reading*: how well k-means masks of a layer's
queries fit the classes, and how well a linear probe tells classes apart by them. *Pushing*: how well **true** coarse masks find
their pixels by modulating a layer, beside bilinear enlargement; the queries have no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..assignment import assign_bilinear
from ..attention import attention_layers, is_joint
from ..clustering import mask_embeddings
from ..datasets import LabelledDataset, open_dataset
from ..datasets.resized import Resized
from ..evaluation.intervals import interval
from ..evaluation.metrics import boundary_scores, mean_iou
from ..evaluation.regions import cell_labels, true_masks
from ..features import draw_noise
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..runs.harness import Execution, results_of
from ..runs.identity import model_identity, versions
from ..runs.samples import dataset_identity, sample_identity, sample_items
from ..runs.store import JsonStore, Results
from ..runs.task import Item, Task
from ..settings import InversionSettings, whole
from ..studies.ablations import nearest_timestep
from ..studies.features import cluster_counts, image_queries, probe_accuracy
from ..words import word_attention
from .manifest import write_manifest
from .names import BILINEAR
from .selection import bar, command, execution

TIMESTEPS = (1, 101, 281, 481)  # at which queries are read
PUSHED_AT = (281, 481, 681)
DENOISING_STEPS = 6  # of every push, to fit all layers into minutes


@torch.no_grad()
def reading(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Sequence[int],
    layers: Sequence[str],
    timesteps: Iterable[int],
    num_masks: int,
    draws: int = 8,
    progress: Callable[[Iterable], Iterable] = iter,
    inversion: InversionSettings | None = None,
) -> pd.DataFrame:
    """What a layer's queries know, by timestep.

    Args:
        draws: of noise that queries are averaged over.
        inversion: as for :func:`.feature_study.image_queries`.

    Returns:
        a row per layer with at least ``num_masks`` cells and timestep: "oracle mIoU" of their bilinearly enlarged masks and
        "probe accuracy", of cells with a known class, of a linear probe that was fitted on the other half of the pictures;
        both in percent.

    Raises:
        ValueError: fewer than two pictures.
    """
    whole(2)("num_pictures", len(positions))
    classes, rows = len(data.class_names), []
    samples = [data[position] for position in positions]
    halves = samples[::2], samples[1::2]
    for timestep in progress(list(timesteps)):
        read = {
            s.name: image_queries(pipe, s.image, timestep, layers, draws, s.seed, inversion) for s in samples
        }
        for layer in layers:
            if min(read[s.name][layer].shape[:2].numel() for s in samples) < num_masks:
                continue
            counts = sum(
                cluster_counts(
                    read[s.name][layer], num_masks, s.labels, classes, ignore_index=data.ignore_index
                )
                for s in samples
            )
            known = [[_known_cells(read[s.name][layer], s.labels, data) for s in half] for half in halves]
            accuracies = [
                probe_accuracy(
                    *map(list, zip(*known[i], strict=True)), *map(list, zip(*known[1 - i], strict=True))
                )
                for i in (0, 1)
            ]
            found = {"oracle mIoU": mean_iou(counts), "probe accuracy": float(np.mean(accuracies))}
            rows.append(
                {"layer": layer, "t": timestep} | {name: 100 * value for name, value in found.items()}
            )
    columns = ["layer", "t", "oracle mIoU", "probe accuracy"]
    return pd.DataFrame(rows, columns=columns).set_index(["layer", "t"])


def _known_cells(
    queries: torch.Tensor, labels: np.ndarray, data: LabelledDataset
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1, d) queries of the cells whose pixels are mostly of known classes, and these, (n, 1)."""
    count = len(data.class_names)
    cells = cell_labels(_with_void(labels, data), tuple(queries.shape[:2]), count + 1)
    return queries.numpy()[cells < count][:, None], cells[cells < count][:, None]


def _with_void(labels: np.ndarray, data: LabelledDataset) -> np.ndarray:
    """Ignored pixels as one more class."""
    return np.where(labels == data.ignore_index, len(data.class_names), labels)


@torch.no_grad()
def attention_to_words(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Iterable[int],
    layers: Sequence[str],
    timestep: int,
    inversion: InversionSettings | None = None,
) -> pd.Series:
    """How much of places' attention goes to the prompt's words, percent, by layer: all of it in cross-attention."""
    shares, used = [], inversion or pipe.resolve().inversion
    denoiser = pipe.denoiser(used.num_inference_steps, used.prompt)
    for sample in (data[position] for position in positions):
        clean = pipe.encode(sample.image, used.processing_resolution)
        noise = draw_noise(clean, 1, torch.Generator().manual_seed(sample.seed))
        attention = word_attention(denoiser, denoiser.add_noise(clean, noise, timestep), timestep, layers)
        shares.append([100 * attention[name].sum(-1).mean().item() for name in layers])
    return pd.Series(np.mean(shares, 0), list(layers), name="% of attention to words")


class Pushing(Task):
    """Pictures whose true masks are pushed at every layer and timestep."""

    def __init__(
        self,
        pipe: EmerDiffPipeline,
        data: LabelledDataset,
        layers: Sequence[str],
        timesteps: Sequence[int],
        settings: dict[str, Any],
        output_dir: Path | str,
    ):
        self.pipe, self.data, self.settings = pipe, data, dict(settings)
        self.layers, self.timesteps = list(layers), list(timesteps)
        identity = {
            "study": "layers",
            "layers": self.layers,
            "timesteps": self.timesteps,
            "settings": pipe.resolve(**self.settings).to_dict(),
            "model": model_identity(pipe),
            "data": dataset_identity(data),
            "versions": versions(),
        }
        self.store: JsonStore = JsonStore(output_dir, identity)

    def picture(self, item: Item) -> dict[str, str]:
        return sample_identity(self.data, item.what)

    def compute(self, item: Item) -> dict[str, Any]:
        return push_true_masks(self.pipe, self.data, item.what, self.layers, self.timesteps, self.settings)


@torch.no_grad()
def push_true_masks(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    position: int,
    layers: Iterable[str],
    timesteps: Sequence[int],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Boundary F (2 px) of one picture's true coarse masks, {"layer at t": F}, and of their bilinear enlargement."""
    sample = data[position]
    generator = torch.Generator().manual_seed(sample.seed)
    coarse = pipe.coarse(
        sample.image, generator=generator, **settings | {"modulation_timestep": max(timesteps)}
    )
    truth, grid = _with_void(sample.labels, data), tuple(coarse.masks.shape[1:])
    masks = torch.from_numpy(true_masks(truth, grid, len(data.class_names) + 1))
    coarse = replace(coarse, masks=masks, embeddings=mask_embeddings(coarse.queries, masks))
    edges = lambda labels: boundary_scores(labels, sample.labels, 2, data.ignore_index)[2]
    found = {BILINEAR: edges(assign_bilinear(masks, coarse.size))}
    for layer in layers:
        for timestep in timesteps:
            moved = coarse.settings.replace(modulation_layer=layer, modulation_timestep=timestep)
            pushed = replace(coarse, settings=pipe.checked(moved, coarse.trajectory))
            found[f"{layer} at {timestep}"] = edges(pipe.assign(pipe.respond(pushed)))
    return {"name": sample.name, "boundary F": found}


def pushing(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Iterable[int],
    layers: Sequence[str],
    timesteps: Sequence[int],
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    how: Execution | None = None,
) -> Results:
    """Picture by picture, {"boundary F": {"layer at t": F}}; what is in ``output_dir`` already, of exactly this, is kept."""
    task = Pushing(pipe, data, layers, timesteps, settings or {}, output_dir)
    return results_of(task, sample_items(data, positions), how, label="true masks pushed")


def pushing_table(results: Sequence[dict], draws: int = 1000) -> pd.DataFrame:
    """A row per layer and timestep in percent: "boundary F", its paired difference to bilinear enlargement of the same masks in
    points, and that one's 95 % bootstrap interval over pictures."""
    edges = {name: np.array([r["boundary F"][name] for r in results]) for name in results[0]["boundary F"]}
    rows = []
    for name, own in edges.items():
        if name == BILINEAR:
            continue
        layer, timestep = name.rsplit(" at ", 1)
        points = [100 * v for v in interval(own, edges[BILINEAR], draws)]
        ends = dict(zip(("− bilinear", "low", "high"), points, strict=True))
        rows.append({"layer": layer, "t": int(timestep), "boundary F": 100 * own.mean()} | ends)
    return pd.DataFrame(rows).set_index(["layer", "t"])


def study(
    pipe: EmerDiffPipeline,
    data: LabelledDataset,
    positions: Sequence[int],
    output_dir: Path | str,
    settings: dict[str, Any] | None = None,
    how: Execution | None = None,
    timesteps: Iterable[int] = TIMESTEPS,
    pushed_at: Iterable[int] = PUSHED_AT,
) -> dict[str, pd.DataFrame]:
    """All tables of one model: "Reading", "Pushing" and, where words and places share attention, "Attention".

    Args:
        timesteps, pushed_at: of reading and of pushing; the nearest inference timesteps are taken.
    """
    settings = with_steps(settings)
    resolved, layers = pipe.resolve(**settings), attention_layers(pipe.unet, "attn2")
    used = resolved.to_dict()
    near = nearest_timestep(pipe, used["num_inference_steps"])
    times, pushes = ([near(t) for t in given] for given in (timesteps, pushed_at))
    results = pushing(pipe, data, positions, layers, pushes, output_dir, settings, how)
    draws, progress = used["noise_ensemble_size"], bar("timesteps read", leave=False)
    own = resolved.inversion
    read = reading(pipe, data, positions, layers, times, used["num_masks"], draws, progress, own)
    tables = {"Reading": read.round(1), "Pushing": pushing_table(list(results)).round(1)}
    if any(is_joint(pipe.unet.get_submodule(name)) for name in layers):
        shares = attention_to_words(pipe, data, positions, layers, near(281), own)
        tables["Attention"] = shares.rename_axis("layer").to_frame().round(1)
    return tables


def with_steps(settings: dict[str, Any] | None) -> dict[str, Any]:
    """The settings with :data:`DENOISING_STEPS`, unless they have their own."""
    return {"denoising_steps": DENOISING_STEPS} | (settings or {})


def describe(read: pd.DataFrame, pushed: pd.DataFrame) -> list[str]:
    """Where queries know most, and where a push finds most."""
    (layer, timestep), found = read["oracle mIoU"].idxmax(), read["oracle mIoU"].max()
    sentences = [
        f"Masks fit best when queries are read at {layer}, t = {timestep}: {found:.1f} % oracle mIoU."
    ]
    (layer, timestep) = pushed["boundary F"].idxmax()
    best = pushed.loc[(layer, timestep)]
    sentences.append(
        f"True masks find their pixels best when {layer} is pushed at t = {timestep}: {best['boundary F']:.1f} % boundary F, "
        f"{best['− bilinear']:+.1f} [{best['low']:+.1f}, {best['high']:+.1f}] beside bilinear enlargement."
    )
    return sentences


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = command(__doc__, "runs/layers")
    parser.add_argument("--dataset", default="toyscapes", help="as notebook 06 names them")
    parser.add_argument("--root", default="", help="folder with the data set's official layout")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--every", type=int, default=1, help="take every so many of the split's pictures")
    parser.add_argument("--num-pictures", type=int, default=12, help="so many at most")
    parser.add_argument("--width", type=int, help="of the pictures, in pixels; their own by default")
    parser.add_argument("--timesteps", type=int, nargs="+", default=list(TIMESTEPS), help="of reading")
    parser.add_argument(
        "--pushed-at", type=int, nargs="+", default=list(PUSHED_AT), help="timesteps of pushing"
    )
    args = parser.parse_args(argv)
    data = open_dataset(args.dataset, args.root, args.split)
    data = data if args.width is None else Resized(data, args.width)
    positions = range(0, len(data), whole(1)("every", args.every))[
        : whole(4)("num_pictures", args.num_pictures)
    ]
    how, pipe = execution(args), load_pipeline(args.model, args.device, args.dtype)
    settings = args.settings if args.num_masks is None else {"num_masks": args.num_masks} | args.settings
    tables = study(pipe, data, positions, args.output, settings, how, args.timesteps, args.pushed_at)
    if how.shard:
        print(
            f"Shard {how.shard} is in {args.output}; run the same command without --shard for all pictures."
        )
        return tables
    notes = describe(tables["Reading"], tables["Pushing"])
    for title, table in tables.items():
        print(f"{title}\n{table.to_string()}\n")
    print("\n".join(notes))
    asked = (
        "num_masks",
        "dtype",
        "dataset",
        "split",
        "every",
        "num_pictures",
        "width",
        "timesteps",
        "pushed_at",
    )
    options = {name: getattr(args, name) for name in asked if getattr(args, name) != parser.get_default(name)}
    given = " --root FOLDER" if args.root else ""
    for name, value in options.items():
        text = " ".join(map(str, value)) if isinstance(value, list) else value
        given += f" --{name.replace('_', '-')} {text}"
    given += f" --settings '{json.dumps(args.settings)}'" if args.settings else ""
    write_manifest(
        args.output / "manifest.json",
        title=f"Where {args.model} is read and pushed best",
        question="Which layer's queries know most, and pushing which layer finds the pixels of true masks?",
        command=f"python -m emerdiff_lib.experiments.layers --model {args.model}{given}",
        settings={"model": args.model, "dtype": args.dtype} | pipe.resolve(**with_steps(settings)).to_dict(),
        seeds=[data[position].seed for position in positions] if data.root == "" else {},
        tables=tables,
        notes=notes,
    )
    return tables


if __name__ == "__main__":
    main()
