"""Kendall's tau_b: how well predictions order members, and how well they can."""

import numpy as np

FLOOR_SHARE = 0.05
"""Share of the members from which on one common value is a floor: that of networks that learned nothing."""


def rank_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """`tau`, tau_b of predictions `(members,)` with the truth, 0 where one of them is constant or there
    are none; and beside it

    * `tau_ceiling`, sqrt(1 - n_t / n_0): tau_b of the best order without ties, for n_t of n_0 pairs that are tied in the
      truth (Kendall 1945). Predictions that tie where the truth does may be above it;
    * `tied_predictions`, the share of members whose prediction another has too;
    * `tau_above_floor`, of the members that are not at the most frequent value, where 5 % or more are at it.
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
    """Of the values, those that occur more than once."""
    if not len(values):
        return 0.0
    counts = np.unique(values, return_counts=True)[1]
    return float(counts[counts > 1].sum() / len(values))
