"""Labels and embeddings in, numbers out: no model, pipeline, rival or data set is known here.

``regions`` finds objects and cells in a ground truth, ``label_maps`` boundaries and what scores of one map share; ``metrics``
compares two label maps, ``protocols`` gives segments their classes. Over a data set of any size, picture by picture:
``sampling`` draws from it, ``fitting`` finds its concepts and clusters, ``statistics`` sums it up, ``tables`` says what follows.
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
