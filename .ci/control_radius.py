"""Is EmerDiff-Pixel ahead of its control because its guided filter is narrower?

``python .ci/control_radius.py CAMVID MANIFEST``: query features through both filters, the guided one 1.0 cells wide as in pixel
mode instead of 1.5, on the scenes of notebook 06 and the frames of notebook 16. EmerDiff-Pixel's results are those of these
notebooks, kept in runs/evaluation-06 and runs/streets; what is not there is computed.
"""

from __future__ import annotations

import sys
from functools import partial

import nbformat
import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from emerdiff_lib import baselines, load_pipeline
from emerdiff_lib.baselines.upsamplers import ADAPTIVE, guided, to_guide
from emerdiff_lib.datasets import LabelledDataset, Sample, open_dataset
from emerdiff_lib.datasets.images import first_samples
from emerdiff_lib.evaluation.intervals import in_words, paired_table
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.evaluation.tables import score
from emerdiff_lib.refinement import pixel_adaptive
from emerdiff_lib.runs.manifest import write_manifest
from emerdiff_lib.settings import MODES, whole
from emerdiff_lib.studies import comparison, names

RADIUS = MODES["pixel"]["guide_radius"]
NARROW = f"{names.QUERIES_BOTH}, {RADIUS:g} cells"
PAIRS = [
    (names.EMERDIFF_PIXEL, NARROW),
    (names.EMERDIFF_PIXEL, names.QUERIES_BOTH),
    (NARROW, names.QUERIES_BOTH),
]


def both_filters(features: torch.Tensor, image: np.ndarray, radius: float) -> torch.Tensor:
    """As ``baselines.upsamplers.guided_adaptive``, of another radius."""
    planes = guided(features, image, radius).permute(2, 0, 1)
    return pixel_adaptive(planes, to_guide(image), ADAPTIVE).permute(1, 2, 0)


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


def measured(entries: list[dict]) -> dict[str, np.ndarray]:
    return {
        "oracle mIoU": np.stack([oracle(entry["table"]) for entry in entries]),
        "boundary F": np.array([entry["boundary_f"] for entry in entries]),
    }


def compared(model: str, data: LabelledDataset, limit: int, folder: str, block: int) -> pd.DataFrame:
    pipe, chosen = load_pipeline(model), comparison.check_methods([], False)
    given = comparison.check_settings(pipe, None, {}, [*chosen, names.EMERDIFF_PIXEL])
    samples, rest = first_samples(data, limit), (len(data.class_names), data.ignore_index, data.background)
    results = comparison.score_images(pipe, data, samples, chosen, given, folder, label=data.split)
    per_image = {
        name: measured([result["methods"][name] for result in results])
        for name in (names.EMERDIFF_PIXEL, names.QUERIES_BOTH)
    }
    narrow = []
    for number, position in enumerate(tqdm(samples.values())):
        sample = data[position]
        generator, image = torch.Generator().manual_seed(sample.seed), np.array(sample.image)
        coarse = pipe.cluster(sample.image, generator=generator, **given)

        def entry(radius: float, coarse=coarse, image=image, sample=sample) -> dict:
            upsample = partial(both_filters, radius=radius)
            found = baselines.cluster_upsampled(coarse.queries, image, upsample, len(coarse.masks))
            return score(found.labels, sample.labels, found.embeddings, 0.0, *rest)

        if number == 0:  # by 1.5 cells it is the control
            assert entry(1.5)["table"] == results[0]["methods"][names.QUERIES_BOTH]["table"]
        narrow.append(entry(RADIUS))
    return paired_table(per_image | {NARROW: measured(narrow)}, PAIRS, block=block)


def main(camvid: str, manifest: str) -> None:
    streets = resized(open_dataset("camvid", camvid, "val"), 192)
    parts = {
        "drawn scenes": compared("toyscapes", open_dataset("toyscapes"), 100, "runs/evaluation-06/report", 1),
        "streets": compared("streets", streets, 1000, "runs/streets/report", 15),
    }
    notes = [
        f"On {part}: {in_words(f'*{first}*', f'*{second}*', rows)}"
        for part, worth in parts.items()
        for (first, second), rows in worth.groupby(["method", "minus"], sort=False)
    ]
    print("\n".join(notes))
    write_manifest(
        manifest,
        title="The control's guided filter",
        question="Is EmerDiff-Pixel ahead of its control because its guided filter is narrower?",
        command=f"python .ci/control_radius.py CAMVID {manifest}",
        settings={"guide_radius": RADIUS, "images": {"drawn scenes": 100, "streets": len(streets)}},
        seeds={},
        tables={f"Differences in points, {part}": worth.round(1) for part, worth in parts.items()},
        notes=notes,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
