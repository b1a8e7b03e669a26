"""Label maps in colours that readers with any colour vision can tell apart; arrays alone, so that nothing of a plot is needed."""

from __future__ import annotations

import numpy as np

from .evaluation.regions import boundaries

# Each the farthest, among all colours with these digits, from those before it: CIEDE2000 as the worst of four visions sees it
# (Machado et al. 2009). Lightness is 25 to 90 and chroma at least 20: neither white outlines nor the grey of an image. The
# first dozen differ in lightness, too. Hexadecimal, a digit for each of red, green and blue.
SEGMENTS = """
7ba 519 a00 a6f fd3 176 c84 cbf d37 bd9 70f 633 78a aee 964 098 659 446 a97 bb0 d20 a35 99d cac 86b ebc da6 f8a 00d 653 801 714
ae7 869 84c 94f f5c 671 5eb 63a a75 ab8 bdf a8f e58 917 187 065 947 d70 a56 744 9af 542 c79 6cd a23 b96 0a0 c58 4b9 b9b cc5 63c
50b 617 b18 68b ba4 b63 979 625 a67 d06 468 8cb 854 912 eb7 925 2a9 a6d d5a 7f5 a86 8dd c8a e45 98d f79 eab ce9 69b 9ad bc9 0d7
aca 734 a3a ec0 746 85d 28e 953 06a 647 74e b35 8ed bec ace 683 b78 6dc 740 b8c 816 c98 3fb 02e c32 aa7 458 0c5 e99 803 9da 564
73d 718 d64 aa1 c67 0ac cae d9a d6a 095 86a 479 cd8 8ea cc8 59e 78c 884 696 674 f95 819 96c e8f 62b 5a7 760 36f b9e 248 3ee 52a
e56 590 569 b4b f33 a8b 482 8bd f4b 635 c35 9b7 452 856 935 f84 8e5 d89 c38 60c 631 41a 0cb 35b b2d a95 ccf b04 61d a1b 8a8 8db
e0c 242 449 5b2 6ab fa4 6c6 757 983 b0c 0f3 e20 c19 262 e5e dda c65 24e 686 254 057 9c3 7bc ad6 a46 843 07e 908 d48 143 dc4 67c
e26 e8c e19 be8 372 6b5 7d8 a7f 967 10c 95e c20 6c9 e6d e88 d44 1de bd7 da8 d0e 972 575 824 b74 a5a 1da 7cf 6a5 13e 7d5 a5d 23c
"""
PALETTE = np.array([[17 * int(digit, 16) for digit in colour] for colour in SEGMENTS.split()], np.uint8)
VOID = (64, 64, 64)


def segment_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours for segments without names, each as far as can be from those before it.

    The least distance in any vision is 14 among the first 12 colours, whose lightness differs as well, 7 among 30, 6 among
    40. A longer palette begins with the shorter ones. After 256, colours come again.
    """
    return PALETTE[np.arange(count) % len(PALETTE)]


def colourise(
    labels: np.ndarray, palette: np.ndarray | None = None, ignore_index: int | None = None
) -> np.ndarray:
    """(H, W) integer labels → (H, W, 3) uint8.

    Args:
        palette: (n, 3) uint8; :func:`segment_palette` without one.
        ignore_index: label of pixels that count as nothing, painted dark grey.

    Raises:
        ValueError: for a label without a colour.
    """
    labels = np.asarray(labels)
    known = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    low, high = (int(labels[known].min()), int(labels[known].max())) if known.any() else (0, 0)
    palette = segment_palette(high + 1) if palette is None else np.asarray(palette)
    if low < 0 or high >= len(palette):
        wrong = low if low < 0 else high
        raise ValueError(
            f"Label {wrong} has no colour: the palette is for 0 to {len(palette) - 1}; pass a longer one, or "
            f"ignore_index={wrong} if it stands for nothing."
        )
    coloured = palette[np.where(known, labels, 0)]
    coloured[~known] = VOID
    return coloured


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray | None = None,
    ignore_index: int | None = None,
    opacity: float = 0.5,
) -> np.ndarray:
    """Image (H, W, 3) uint8 with the colours of its labels (H, W) laid over it, their boundaries in white."""
    colours = colourise(labels, palette, ignore_index)
    mixed = (1 - opacity) * np.asarray(image, float) + opacity * colours
    mixed[boundaries(np.asarray(labels))] = 255
    return mixed.astype(np.uint8)
