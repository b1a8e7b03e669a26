"""The Berkeley segmentation data set: photographs that several people have segmented, without classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.io import loadmat

from ..images import load_image, reading
from .base import FileDataset, lookup_table


@dataclass(frozen=True)
class AnnotatedImage:
    """An RGB image and what people made of it: ``annotations`` are, of each person, (H, W) int32 regions 0 … R−1."""

    name: str
    image: Image.Image
    annotations: list[np.ndarray]


class BSDS500(FileDataset):
    """BSDS500 in its official layout (Arbeláez et al., TPAMI 2011): 200 training, 100 validation and 200 test images."""

    class_names, splits = (), ("test", "val", "train")
    layout, endings = ("data/images/{split}", "data/groundTruth/{split}"), ("", ".mat")
    table = lookup_table({0: 0})  # regions have no classes
    source = (
        "Expected in BSDS500: data/images/{train,val,test}/*.jpg and data/groundTruth/{train,val,test}/*.mat. "
        "BSR_bsds500.tgz is at www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping."
    )

    def __getitem__(self, index: int) -> AnnotatedImage:
        name, file, truth = self.pairs[index]
        image = load_image(file)
        with reading(truth):
            people = [person["Segmentation"][0, 0] for person in loadmat(truth)["groundTruth"][0]]
            if not people or any(not np.all(regions >= 1) for regions in people):
                raise ValueError("nobody has annotated it, or with numbers that are no regions from 1 on")
            if any(regions.shape != (image.height, image.width) for regions in people):
                raise ValueError(
                    f"its image is {image.width} × {image.height}, an annotation is of another size"
                )
        return AnnotatedImage(name, image, [regions.astype(np.int32) - 1 for regions in people])
