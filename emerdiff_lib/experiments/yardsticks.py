"""The bundled model beside its yardsticks: ``python -m emerdiff_lib.evaluation``.

Segments held-out Toyscapes scenes with EmerDiff, with bilinear upsampling of the same coarse masks, and with k-means of
colour and position at the same number of clusters; prints oracle mIoU, the paper's modified protocol and boundary F with
bootstrap intervals, and the exactness of the inversion. Results are kept scene by scene: run again to go on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm.auto import tqdm

from ..pipeline import EmerDiffPipeline
from ..toyscapes import Toyscapes
from . import report
from .scenes import SceneStore, evaluate_scene


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="toyscapes", help="name, diffusers folder or hub id")
    parser.add_argument("--num-scenes", type=int, default=100, help="test scenes")
    parser.add_argument(
        "--fit-scenes", type=int, default=20, help="validation scenes that concepts are fitted on"
    )
    parser.add_argument("--num-masks", type=int, default=12, help="K, for every method")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of further pipeline arguments")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/evaluation"), help="results per scene, summary.json"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    args = arguments(argv)
    pipe = EmerDiffPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    store = SceneStore(args.output, pipe, {"num_masks": args.num_masks} | args.settings)
    results = {}
    for split, count in (("test", args.num_scenes), ("validation", args.fit_scenes)):
        scenes = Toyscapes(split)
        results[split] = [
            store.recall(split, i) or store.keep(split, i, evaluate_scene(pipe, scenes[i], **store.settings))
            for i in tqdm(range(count), desc=f"{split} scenes")
        ]
    summary = report.summarise(results["test"], results["validation"])
    summary["settings"] = store.settings | {"model": args.model, "weights": store.weights}
    (args.output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(report.as_text(summary))
    return summary


if __name__ == "__main__":
    main()
