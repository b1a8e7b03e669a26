"""Labels and embeddings in, numbers out: no model, pipeline, rival or data set is known here.

``metrics`` compares two label maps, ``protocols`` gives segments their classes, ``regions`` finds objects and cells in a
ground truth, ``tables`` sums a data set up.
"""

from .metrics import boundary_scores, class_iou, contingency_table, mean_iou, share_inside
from .protocols import Record, concept_embeddings, modified, oracle

__all__ = [
    "Record",
    "boundary_scores",
    "class_iou",
    "concept_embeddings",
    "contingency_table",
    "mean_iou",
    "modified",
    "oracle",
    "share_inside",
]
