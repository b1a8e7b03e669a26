"""Labels and embeddings in, numbers out. Only ``scenes``, which runs the methods side by side, is handed a model."""

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
