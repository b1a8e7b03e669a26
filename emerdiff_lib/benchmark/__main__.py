"""Time, memory and quality in one run: ``python -m emerdiff_lib.benchmark``.

Prints the machine's measured rates; the reference point, the exact and the fast mode on one Toyscapes image with the cost
model's prediction beside each; peak memory against K and steps; the quality–cost front over scenes; and modulated denoising
at true Stable Diffusion 1.4 size (random weights), measured small and extrapolated to K = 30.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..pipeline import EmerDiffPipeline
from ..toyscapes import Toyscapes
from . import measure
from .costs import Machine


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--num-masks", type=int, default=16, help="K of the comparison with the reference point"
    )
    parser.add_argument("--modulation-timestep", type=int, default=281, help="t_m of that comparison")
    parser.add_argument(
        "--repeats", type=int, default=3, help="medians are over this many runs, taken in turns"
    )
    parser.add_argument("--num-scenes", type=int, default=16, help="scenes of the front; 0 leaves it out")
    parser.add_argument("--first-scene", type=int, default=100, help="first test seed of the front")
    parser.add_argument(
        "--stable-diffusion",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="true size: 2 GB of memory and a few minutes on a CPU",
    )
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args = arguments(argv)
    pd.set_option("display.width", 200, "display.max_columns", 20, "display.precision", 3)
    tables: dict[str, pd.DataFrame] = {}

    def show(title: str, table: pd.DataFrame):
        tables[title] = table
        print(f"\n{title}\n{table.to_string(na_rep='')}", flush=True)

    machine = Machine.measure(args.device)
    rates = ", ".join(f"{dtype} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in machine.flops_per_second.items())
    print(f"{machine.name}: {rates}, memory {machine.bytes_per_second / 1e9:.0f} GB/s")

    pipe = EmerDiffPipeline.from_pretrained("toyscapes").to(args.device)
    pipe.set_progress_bar_config(disable=True)
    scenes = Toyscapes("test")
    image = scenes[args.first_scene].image
    show(
        f"Toyscapes, float32, K = {args.num_masks}, t_m = {args.modulation_timestep}: modulated denoising of one image",
        measure.against_reference(
            pipe, image, machine, args.num_masks, args.modulation_timestep, args.repeats
        ),
    )
    show("Peak memory in MiB, exact, 8 masks per batch", measure.peak_memory(pipe, image))
    if args.num_scenes:
        seeds = range(args.first_scene, args.first_scene + args.num_scenes)
        results = [
            row for i in tqdm(seeds, desc="scenes") for row in measure.evaluate_variants(pipe, scenes[i])
        ]
        show(
            f"Quality against cost, {args.num_scenes} test scenes from {seeds[0]}, K = 12",
            measure.front(results),
        )
    if args.stable_diffusion:
        show(
            "Stable Diffusion 1.4's size, 512 × 512, bfloat16, random weights",
            measure.at_stable_diffusion_size(machine, device=args.device),
        )
    record = {"machine": vars(machine), "settings": {k: str(v) for k, v in vars(args).items()}}
    record |= {
        title: json.loads(table.reset_index().to_json(orient="records")) for title, table in tables.items()
    }
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


if __name__ == "__main__":
    main()
