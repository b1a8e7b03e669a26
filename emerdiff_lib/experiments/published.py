"""What papers report, each under its own protocol: to be read beside our numbers, never in one column with them."""

from __future__ import annotations

import pandas as pd

_ROWS = (
    ("EmerDiff", "COCO-Stuff-27", "traditional", 26.6, "arXiv 2401.11739, Table 1"),
    ("STEGO", "COCO-Stuff-27", "traditional", 26.8, "arXiv 2401.11739, Table 1"),
    ("EmerDiff", "ADE20K-150", "modified", 33.1, "arXiv 2401.11739, Table 2"),
    ("its masks, bilinear", "ADE20K-150", "modified", 29.1, "arXiv 2401.11739, Table 2"),
    ("EmerDiff", "COCO-Stuff-171", "modified", 30.5, "arXiv 2401.11739, Table 2"),
    ("its masks, bilinear", "COCO-Stuff-171", "modified", 27.6, "arXiv 2401.11739, Table 2"),
    ("DiffSeg", "COCO-Stuff-27", "per-image matching", 43.6, "arXiv 2308.12469, Table 1"),
    ("DiffSeg", "Cityscapes-27", "per-image matching", 21.2, "arXiv 2308.12469, Table 2"),
    ("DiffCut", "COCO-Stuff-27", "per-image matching", 49.1, "arXiv 2406.02842, Table 1"),
    ("DiffCut", "Cityscapes-27", "per-image matching", 30.6, "arXiv 2406.02842, Table 1"),
    ("FC-DenseNet103", "CamVid-11, test", "supervised", 66.9, "arXiv 1611.09326, Table 3"),
)


def published() -> pd.DataFrame:
    """A row per method and data set: mIoU in percent, the protocol that it is under, and where it stands."""
    return pd.DataFrame(_ROWS, columns=["method", "data", "protocol", "mIoU", "source"]).set_index(
        ["protocol", "method"]
    )
