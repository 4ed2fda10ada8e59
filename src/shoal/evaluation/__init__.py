"""Scores of a clustering, with and without true classes; only this package computes with true classes."""

from shoal.evaluation.baselines import plain_baselines
from shoal.evaluation.held_out import HeldOut, score_held_out
from shoal.evaluation.knn import knn_leave_one_out, knn_predict
from shoal.evaluation.linear import LARS_PROBE, SGD_PROBE, linear_predict
from shoal.evaluation.metrics import clustering_scores, matched_confusion, purity
from shoal.evaluation.protocol import evaluate, evaluate_files, nearest, probe
from shoal.evaluation.result import Evaluation
from shoal.evaluation.signals import clustering_signals, collapse_warning, score, unsettled_warning
from shoal.evaluation.tables import as_text
from shoal.evaluation.truth import Truth

__all__ = [
    "LARS_PROBE",
    "SGD_PROBE",
    "Evaluation",
    "HeldOut",
    "Truth",
    "as_text",
    "clustering_scores",
    "clustering_signals",
    "collapse_warning",
    "evaluate",
    "evaluate_files",
    "knn_leave_one_out",
    "knn_predict",
    "linear_predict",
    "matched_confusion",
    "nearest",
    "plain_baselines",
    "probe",
    "purity",
    "score",
    "score_held_out",
    "unsettled_warning",
]
