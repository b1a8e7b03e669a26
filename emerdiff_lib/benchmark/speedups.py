"""What was tried to be faster still: ``python -m emerdiff_lib.benchmark.speedups``.

Half precision and regional ``torch.compile`` (the U-Net's repeated blocks, by diffusers), each with exact and pixel mode: what a
picture takes, what the first one took more, and whether the labels stay. Nothing else should use the cores meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import adjusted_rand_score

from ..evaluation.metrics import boundary_scores
from ..experiments.manifest import write_manifest
from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from ..settings import whole
from ..timing import timed
from ..toyscapes import Scene, Toyscapes
from .costs import Machine

FIRST = 100  # of the test scenes that the benchmark looks at
MODES = ("exact", "pixel")


def compiled(pipe: EmerDiffPipeline) -> EmerDiffPipeline:
    """The pipeline with its U-Net's transformer blocks compiled."""
    pipe.unet.compile_repeated_blocks(dynamic=True)
    return pipe


VARIANTS: dict[str, tuple[str, Callable[[EmerDiffPipeline], EmerDiffPipeline]]] = {
    "float32": ("float32", lambda pipe: pipe),
    "bfloat16": ("bfloat16", lambda pipe: pipe),
    "float32, compiled blocks": ("float32", compiled),
    "bfloat16, compiled blocks": ("bfloat16", compiled),
}


def measure(model: str, device: str, seeds: Sequence[int]) -> pd.DataFrame:
    """A row per variant and mode: "s / picture" (median), "s more for the first", "boundary F" and "ARI to float32", percent."""
    scenes, rows = [Toyscapes.from_seed(seed) for seed in seeds], []
    plain: dict[str, list[np.ndarray]] = {}
    for name, (dtype, change) in VARIANTS.items():
        torch.compiler.reset()
        pipe = change(load_pipeline(model, device, dtype))
        pipe.set_progress_bar_config(disable=True)
        for mode in MODES:
            _, first = timed(partial(pipe, scenes[0].image, mode=mode, generator=_seeded(scenes[0])))
            runs = [timed(partial(pipe, s.image, mode=mode, generator=_seeded(s))) for s in scenes]
            seconds, labels = statistics.median(t for _, t in runs), [out.labels for out, _ in runs]
            usual = plain.setdefault(mode, labels)
            alike = [adjusted_rand_score(a.ravel(), b.ravel()) for a, b in zip(labels, usual, strict=True)]
            edges = [boundary_scores(found, s.labels)[2] for found, s in zip(labels, scenes, strict=True)]
            row = {
                "variant": name,
                "mode": mode,
                "s / picture": seconds,
                "s more for the first": first - seconds,
            }
            rows.append(row | {"boundary F": 100 * np.mean(edges), "ARI to float32": 100 * np.mean(alike)})
            print(pd.Series(rows[-1]).to_frame().T.to_string(index=False, header=len(rows) == 1), flush=True)
    return pd.DataFrame(rows).set_index(["variant", "mode"])


def _seeded(scene: Scene) -> torch.Generator:
    return torch.Generator().manual_seed(scene.seed)


def describe(table: pd.DataFrame) -> list[str]:
    """A sentence per variant: what it gains, and after how many pictures it has paid for its start."""
    sentences, plain = [], table.loc["float32"]
    usual = plain["s / picture"]
    for name, part in table.groupby(level=0, sort=False):
        if name == "float32":
            continue
        part, told = part.droplevel(0), []
        for mode, row in part.iterrows():
            gain = usual[mode] - row["s / picture"]
            paid = (
                f", paid back after {max(0, row['s more for the first']) / gain:.0f} pictures"
                if gain > 0
                else ""
            )
            told.append(
                f"{mode} mode takes {row['s / picture'] / usual[mode]:.2f} times as long{paid}, with "
                f"boundary F {row['boundary F']:.1f} for {plain.loc[mode, 'boundary F']:.1f}"
            )
        sentences.append(f"{name}: {'; '.join(told)}.")
    return sentences


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="toyscapes", help="name, diffusers folder or hub id")
    parser.add_argument("--device", default="", help="empty: a GPU if there is one")
    parser.add_argument("--num-scenes", type=int, default=6, help="of which the median is taken")
    parser.add_argument("--output", type=Path, default=Path("runs/speedups"), help="manifest.json")
    args = parser.parse_args(argv)
    table = measure(args.model, args.device, range(FIRST, FIRST + whole(1)("--num-scenes", args.num_scenes)))
    notes: list[str] = [*describe(table), f"Measured on {Machine.measure(dtypes=(), repeats=1).name}."]
    print("\n".join(notes))
    settings: dict[str, Any] = {"model": args.model}
    write_manifest(
        args.output.expanduser() / "manifest.json",
        title="Speed-ups that were tried",
        question="Do half precision and compilation pay?",
        command=f"python -m emerdiff_lib.benchmark.speedups --model {args.model} --num-scenes {args.num_scenes}",
        settings=settings,
        seeds=range(FIRST, FIRST + args.num_scenes),
        tables={"a picture": table},
        notes=notes,
    )
    return table


if __name__ == "__main__":
    main()
