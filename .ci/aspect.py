"""What the rule for processing sizes changes, on crops of validation scenes: ``python .ci/aspect.py MANIFEST``."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from PIL import Image

from emerdiff_lib import Toyscapes, frozen_model, load_pipeline
from emerdiff_lib.evaluation.tables import score, summarise
from emerdiff_lib.runs.manifest import write_manifest

CROPS = ((128, 96), (84, 128), (128, 72))  # width, height: 4:3, about 2:3, 16:9
EXACT = CROPS[:1]  # exact mode takes four times as long
SEEDS = range(1800, 1812)
Rule = Callable[[tuple[int, int], int, int], tuple[int, int]]
nearest_aspect: Rule = frozen_model.image_io.processing_size


def rounded_to(multiple: int) -> Rule:
    """Each side rounded by itself, whatever that makes of the aspect ratio."""

    def rule(size: tuple[int, int], resolution: int, _: int) -> tuple[int, int]:
        scale = resolution / (size[0] * size[1]) ** 0.5
        height, width = (max(round(side * scale / multiple), 1) * multiple for side in size)
        return height, width

    return rule


RULES = {
    "nearest aspect": nearest_aspect,
    "sides rounded to 32": rounded_to(32),
    "sides rounded to 8": rounded_to(8),
}


def main(path: str) -> None:
    pipe = load_pipeline("toyscapes")
    results: dict[str, list[dict]] = {"exact": [], "pixel": []}
    sizes = []
    for seed in SEEDS:
        scene = Toyscapes.from_seed(seed)
        for width, height in CROPS:
            left, top = (128 - width) // 2, (128 - height) // 2
            inside = slice(top, top + height), slice(left, left + width)
            image, truth = Image.fromarray(np.asarray(scene.image)[inside]), scene.coarse_labels[inside]
            for mode, rows in results.items():
                if mode == "exact" and (width, height) not in EXACT:
                    continue
                methods = {}
                for name, rule in list(RULES.items())[: 2 if mode == "exact" else 3]:
                    frozen_model.image_io.processing_size = rule
                    out = pipe(image, mode=mode, generator=torch.Generator().manual_seed(seed))
                    seconds, classes = sum(out.timings.values()), len(Toyscapes.coarse_class_names)
                    methods[name] = score(out.labels, truth, out.mask_embeddings, seconds, classes)
                    h, w = out.settings["processing_size"]
                    sizes.append(
                        (f"{width} × {height}", name, f"{w} × {h}", 100 * (w * height / (h * width) - 1))
                    )
                rows.append({"name": f"{seed} {width} × {height}", "methods": methods})
            print(seed, width, height, flush=True)
    frame = pd.DataFrame(
        sizes, columns=["crop", "rule", "processed at", "stretched by (%)"]
    ).drop_duplicates()
    tables = {"processing sizes": frame.set_index("crop")}
    for mode, rows in results.items():
        summary = summarise(rows)
        scores = summary["scores"][["oracle mIoU", "boundary F", "s / image"]]
        tables |= {
            f"scores, {mode} mode": scores,
            f"nearest aspect minus, {mode} mode": summary["paired"].set_index("minus"),
        }
    settings = pipe.default_settings()
    write_manifest(
        path,
        title="Processing sizes that keep the aspect ratio",
        question="What is gained where an image is not stretched to multiples of 32 pixels?",
        command="git checkout COMMIT && python .ci/aspect.py notebooks/results/aspect.json",
        settings=settings,
        seeds={"tuning": SEEDS},
        tables=tables,
        notes=[
            "Pixel mode: all crops; exact mode: 4:3 alone. Every rule asks for the same number of pixels.",
        ],
    )
    for table in tables.values():
        print(table.to_string())


if __name__ == "__main__":
    main(sys.argv[1])
