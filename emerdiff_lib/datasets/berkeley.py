"""The Berkeley segmentation data set: photographs that several people have segmented, without classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from ..images import image_files, load_image, reading, shown
from ..settings import check_known

SOURCE = (
    "Expected: data/images/{train,val,test}/*.jpg and data/groundTruth/{train,val,test}/*.mat, or both without data/. "
    "BSR_bsds500.tgz is at www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping."
)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what people made of it.

    Attributes:
        name: unique within the data set.
        image: RGB of size (H, W).
        annotations: of each person, (H, W) int32 regions 0 … R−1.
    """

    name: str
    image: Image.Image
    annotations: list[np.ndarray]


class BSDS500(Sequence[AnnotatedImage]):
    """BSDS500 in its official layout (Arbeláez et al., TPAMI 2011): 200 training, 100 validation and 200 test images.

    Args:
        root: BSDS500/, or data/ in it.
        split: "test", as papers report, "val" or "train".

    Raises:
        ValueError: an unknown split, or a file that is none of the data set's.
        FileNotFoundError: a folder or a file is missing, or there is no image.
    """

    def __init__(self, root: Path | str, split: str = "test"):
        check_known("BSDS500: split", split, ("test", "val", "train"))
        root = Path(root).expanduser().absolute()
        root = root / "data" if (root / "data").is_dir() else root
        images, self.truth = root / "images" / split, root / "groundTruth" / split
        for folder in (images, self.truth):
            if not folder.is_dir():
                raise FileNotFoundError(f"BSDS500 expects {shown(folder)}, which is missing. {SOURCE}")
        self.files = image_files(images)
        if not self.files:
            raise FileNotFoundError(f"BSDS500 has no image of split {split!r}. {SOURCE}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> AnnotatedImage:
        file = self.files[index]
        image, truth = load_image(file), self.truth / f"{file.stem}.mat"
        with reading(truth):
            people = [person["Segmentation"][0, 0] for person in loadmat(truth)["groundTruth"][0]]
            if not people or any(not np.all(regions >= 1) for regions in people):
                raise ValueError("nobody has annotated it, or with numbers that are no regions from 1 on")
            if any(regions.shape != (image.height, image.width) for regions in people):
                raise ValueError(
                    f"its image is {image.width} × {image.height}, an annotation is of another size"
                )
        return AnnotatedImage(file.stem, image, [regions.astype(np.int32) - 1 for regions in people])
