"""Kendall's tau_b: how well predictions rank members, and how well they could."""

import numpy as np

FLOOR_SHARE = 0.05
"""A value that at least this share of the members has is a floor: that of networks that learned
nothing."""


def rank_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Rank correlation of predictions `(members,)` with the truth:

    * `tau`, tau_b, 0 if either is constant or empty;
    * `tau_ceiling`, sqrt(1 - n_t / n_0): tau_b of the best order without ties, if n_t of n_0
      pairs are tied in the truth (Kendall 1945). Predictions with the same ties may exceed it;
    * `tied_predictions`, the share of members whose prediction is not unique;
    * `tau_above_floor`, over the members not at the most frequent value, if 5 % or more are at it.
    """
    pairs = len(truth) * (len(truth) - 1)
    values, counts = np.unique(truth, return_counts=True)
    scores = {
        "tau": tau_b(truth, predicted),
        "tau_ceiling": float(np.sqrt(1 - (counts * (counts - 1)).sum() / max(1, pairs))),
        "tied_predictions": share_of_ties(predicted),
    }
    if (most := counts.max(initial=0)) > 1 and most >= FLOOR_SHARE * len(truth):
        above = truth != values[counts.argmax()]
        scores["tau_above_floor"] = tau_b(truth[above], predicted[above])
    return scores


def tau_b(truth: np.ndarray, predicted: np.ndarray) -> float:
    from scipy.stats import kendalltau

    if len(np.unique(truth)) < 2 or len(np.unique(predicted)) < 2:
        return 0.0
    return float(kendalltau(truth, predicted).statistic)


def share_of_ties(values: np.ndarray) -> float:
    """Share of the values that occur more than once."""
    if not len(values):
        return 0.0
    counts = np.unique(values, return_counts=True)[1]
    return float(counts[counts > 1].sum() / len(values))
