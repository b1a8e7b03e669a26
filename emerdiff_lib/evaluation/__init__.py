"""Labels and embeddings in, numbers out. Nothing here but ``__main__`` knows that models exist."""

from .metrics import boundary_scores, class_iou, contingency_table, mean_iou, share_inside
from .protocols import Record, concept_embeddings, modified, oracle

__all__ = ["Record", "boundary_scores", "class_iou", "concept_embeddings", "contingency_table", "mean_iou", "modified",
           "oracle", "share_inside"]  # fmt: skip
