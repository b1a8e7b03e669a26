"""Class names of the official data sets, from class_names.json, in the order of their indices or ids there."""

from __future__ import annotations

import json
from pathlib import Path

_NAMES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

ADE20K = tuple(_NAMES["ade20k"])  # SceneParsing's objectInfo150.txt; label 0 is "other"
COCO_STUFF_IDS = tuple(_NAMES["coco-stuff"])  # cocostuff's labels.txt, ids 1 to 182
COCO_STUFF_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # ids that were never annotated
# 12 groups of things, 15 of stuff, in the order of IIC, PiCIE and STEGO: {group: its names above}
COCO_STUFF_GROUPS: dict[str, list[str]] = _NAMES["coco-stuff-27"]
# The 59 most frequent classes in the order of the authors' 59_labels.txt, which FCN and what follows it use: VOC's 20
# objects come first; and in alphabetical order, mmsegmentation's
PASCAL_CONTEXT_VOC_FIRST = tuple(_NAMES["pascal-context"])
PASCAL_CONTEXT = tuple(sorted(PASCAL_CONTEXT_VOC_FIRST))
# The 19 evaluated classes in the order of their train ids, and their ids in *_gtFine_labelIds.png
CITYSCAPES = tuple(_NAMES["cityscapes"])
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Labels 0 to 10 of the SegNet tutorial, and their colours; 11 is void
CAMVID = tuple(_NAMES["camvid"])
CAMVID_PALETTE = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"
