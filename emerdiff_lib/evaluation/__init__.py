"""Labels and embeddings in, numbers out: no model, pipeline, baseline or data set is known here.

``regions`` has known pixels, boundaries, objects and cells of a label map;
``metrics`` compares two label maps, ``protocols`` gives segments their classes, ``intervals`` says what differences are worth,
and ``tables`` puts a whole data set together.
"""

from .intervals import interval, paired_table
from .metrics import boundary_scores, class_iou, contingency_table, mean_iou, share_inside
from .protocols import Record, concept_embeddings, modified, oracle

__all__ = [
    "Record",
    "boundary_scores",
    "class_iou",
    "concept_embeddings",
    "contingency_table",
    "interval",
    "mean_iou",
    "modified",
    "oracle",
    "paired_table",
    "share_inside",
]
