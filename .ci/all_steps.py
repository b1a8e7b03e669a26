"""Does the paper's method lose on street photographs because it takes 6 denoising steps there instead of all?

``python .ci/all_steps.py CAMVID MANIFEST``: every sixth frame of notebook 16's.
Results are kept in runs/all-steps, so that a second start goes on.
"""

from __future__ import annotations

import sys

import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from emerdiff_lib import load_pipeline
from emerdiff_lib.datasets import LabelledDataset, Sample, open_dataset
from emerdiff_lib.datasets.images import named
from emerdiff_lib.evaluation import tables
from emerdiff_lib.evaluation.intervals import interval, paired_table, verdict, with_interval
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.runs.manifest import write_manifest
from emerdiff_lib.settings import whole
from emerdiff_lib.studies import comparison, names

EVERY, SECOND = 6, 3  # frames; of these, so many are about a second of the drive
STEPS = {"6 steps": {}, "all steps": {"denoising_steps": 25}}
METHODS = [names.EMERDIFF, names.BILINEAR, names.BILINEAR_GUIDED, names.BILINEAR_ADAPTIVE]
SHORT, ALL = (f"EmerDiff, {steps}" for steps in STEPS)
PAIRS = [(ALL, SHORT), *((one, other) for one in (SHORT, ALL) for other in METHODS[1:])]


def resized(data: LabelledDataset, width: int) -> LabelledDataset:
    """Notebook 16's data set of one width, by its own cell."""
    cells = nbformat.read("notebooks/16_streets.ipynb", 4).cells
    namespace = {
        "LabelledDataset": LabelledDataset,
        "Sample": Sample,
        "Image": Image,
        "np": np,
        "whole": whole,
    }
    exec(next(cell.source for cell in cells if "class Resized" in cell.source), namespace)
    return namespace["Resized"](data, width)


def main(camvid: str, manifest: str) -> None:
    pipe = load_pipeline("streets")
    data = resized(open_dataset("camvid", camvid, "val"), 192)
    samples = named(data, range(0, len(data), EVERY))
    per_image: dict[str, dict[str, np.ndarray]] = {}
    for steps, settings in STEPS.items():
        methods = METHODS if not settings else METHODS[:1]
        folder = f"runs/all-steps/{steps.replace(' ', '-')}"
        results = comparison.score_images(pipe, data, samples, methods, settings, folder, label=steps)
        for method in methods:
            entries = [result["methods"][method] for result in results]
            per_image[f"EmerDiff, {steps}" if method == names.EMERDIFF else method] = {
                "oracle mIoU": np.stack([oracle(entry["table"]) for entry in entries]),
                "boundary F": np.array([entry["boundary_f"] for entry in entries]),
            }
        print(tables.summarise(results)["scores"].round(1).to_string(), flush=True)
    worth = paired_table(per_image, PAIRS, block=SECOND)
    worth["verdict"] = [verdict(low, high) for low, high in worth[["low", "high"]].to_numpy()]
    notes = []
    for first, second in PAIRS:
        rows = worth[(worth["method"] == first) & (worth["minus"] == second)].itertuples()
        said = [f"{with_interval(r.points, r.low, r.high)} of {r.measure}, {r.verdict}" for r in rows]
        notes.append(f"{first} minus “{second}”: {'; '.join(said)}.")
    levels = {
        name: {measure: 100 * interval(values)[0] for measure, values in measures.items()}
        for name, measures in per_image.items()
    }
    write_manifest(
        manifest,
        title="All steps on streets",
        question="Does EmerDiff lose on street photographs because it takes 6 denoising steps there?",
        command=f"python .ci/all_steps.py CAMVID {manifest}",
        settings=pipe.resolve().to_dict() | {"images": len(samples), "every": EVERY, "block": SECOND},
        seeds={},
        tables={
            "Scores in percent": pd.DataFrame(levels).T.round(1),
            "Differences in points": worth.round(1),
        },
        notes=notes,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
