"""Scores of a clustering: against true labels, which are read in this package alone, and without any."""

from shoal.evaluation.knn import knn_leave_one_out, knn_predict
from shoal.evaluation.metrics import clustering_scores, matched_confusion
from shoal.evaluation.score import score
from shoal.evaluation.unsupervised import clustering_signals, collapse_warning

__all__ = [
    "clustering_scores",
    "clustering_signals",
    "collapse_warning",
    "knn_leave_one_out",
    "knn_predict",
    "matched_confusion",
    "score",
]
