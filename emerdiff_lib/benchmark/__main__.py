"""Time, memory and quality in one run: ``python -m emerdiff_lib.benchmark``.

Prints the machine's measured rates; the reference point, exact and fast mode on one Toyscapes picture with the cost model's
prediction beside them; peak memory against K and steps; the quality–cost front over scenes; and modulated denoising at true
Stable Diffusion 1.4 size (random weights), measured small and extrapolated to the paper's settings.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import pandas as pd
import torch

from ..experiments.manifest import write_manifest
from ..loading import load_pipeline
from ..toyscapes import Toyscapes
from . import front, measure, stable_diffusion, words
from .costs import Machine


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="toyscapes", help="a diffusers folder or hub id")
    parser.add_argument("--device", default="", help="cpu, cuda …; empty: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--num-masks", type=int, help="K; the checkpoint's unless given")
    parser.add_argument("--modulation-timestep", type=int, help="t_m; the checkpoint's unless given")
    parser.add_argument(
        "--repeats", type=int, default=3, help="medians are over this many runs, taken in turns"
    )
    parser.add_argument("--num-scenes", type=int, default=16, help="scenes of the front; 0 leaves it out")
    parser.add_argument("--first-scene", type=int, default=100, help="seed of the first of them")
    parser.add_argument("--output", default="runs/efficiency/front", help="results of the front per scene")
    parser.add_argument(
        "--stable-diffusion",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="true size: 2 GB of memory and a few minutes on a CPU",
    )
    parser.add_argument("--manifest", help="also write everything to this JSON file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    args = arguments(argv)
    tables: dict[str, pd.DataFrame] = {}

    def show(title: str, table: pd.DataFrame) -> pd.DataFrame:
        tables[title] = table
        print(f"\n{title}\n{table.to_string(na_rep='', float_format='{:.3g}'.format)}", flush=True)
        return table

    pipe = load_pipeline(args.model, args.device, args.dtype)
    machine = Machine.measure(
        pipe.unet.device, dict.fromkeys([torch.float32, torch.bfloat16, pipe.unet.dtype])
    )
    print(machine)
    given = {"num_masks": args.num_masks, "modulation_timestep": args.modulation_timestep}
    usual = pipe.resolve(**given).to_dict()
    image = Toyscapes.from_seed(args.first_scene).image

    coarse = measure.coarse_for_reference(pipe, image, **given)
    comparison = measure.against_reference(pipe, coarse, machine, args.repeats)
    show("One picture, from its coarse masks to labels", comparison)
    counts, timesteps = (4, 32), measure.spread_timesteps(pipe, usual["modulation_timestep"], 2)
    memory = measure.peak_memory(pipe, image, counts, timesteps, min(counts))
    show(f"Peak memory in MiB, exact, {min(counts)} masks per batch", memory)
    notes = [str(machine), *words.of_comparison(comparison, memory)]
    seeds = range(args.first_scene, args.first_scene + args.num_scenes)
    if seeds:
        results = front.evaluate(pipe, seeds, args.output, **given)
        notes += words.of_front(show(f"Quality against cost, {len(seeds)} scenes", front.front(results)))
        beyond = front.beyond_filters(results)
        notes += words.of_filters(show("What denoising adds to a guided filter, points", beyond))
    if args.stable_diffusion:
        table = stable_diffusion.at_full_size(machine, device=pipe.unet.device)
        show("Stable Diffusion 1.4's size, 512 × 512, bfloat16, random weights", table)
    print("\n" + "\n".join(notes))
    if args.manifest:
        write_manifest(
            args.manifest,
            title="Benchmark",
            question="What does the method cost in time and memory, and what do its shortcuts cost in quality?",
            command=shlex.join(
                ["python", "-m", "emerdiff_lib.benchmark", *(sys.argv[1:] if argv is None else argv)]
            ),
            settings=vars(args) | usual,
            seeds={"pictures": seeds or [args.first_scene]},
            tables=tables,
            notes=notes,
        )
    return tables


if __name__ == "__main__":
    main()
