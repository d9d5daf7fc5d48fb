"""scikit-learn's temperature scaling, MAPIE's risk control and the same metrics, timed by stage.

    python peers.py FOLDER      # with select.safetensors and calib.safetensors, written by the example `calibration`

Prints one JSON object like the example's. What scikit-learn has is taken from it; the rest is NumPy without loops over
rows.
"""

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from mapie.risk_control import BinaryClassificationController, precision
from safetensors.numpy import load_file
from scipy.signal import fftconvolve
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    matthews_corrcoef,
    roc_auc_score,
)
from sklearn.preprocessing import label_binarize

ALPHA, DELTA, THRESHOLDS = 0.05, 0.1, 50
BINS, DECOMPOSITION_BINS = 15, 10


class Logits(ClassifierMixin, BaseEstimator):
    """A model whose inputs are its logits already."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


def temperature(logits, labels):
    """CalibratedClassifierCV(method="temperature") on a frozen model."""
    model = FrozenEstimator(Logits().fit(logits, labels))
    fitted = CalibratedClassifierCV(model, method="temperature").fit(logits, labels)
    return f"T = {1 / fitted.calibrated_classifiers_[0].calibrators[0].beta_:.9f}"


def certify(select, calib):
    """MAPIE: of the answers (confidence at least t) at least 1 - alpha are right, at 50 thresholds of val_select."""
    shares = np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    on_select = softmax(select["logits"], axis=1).max(axis=1)
    thresholds = np.unique(np.quantile(on_select, 1 - shares, method="lower"))
    score = softmax(calib["logits"], axis=1).max(axis=1)
    right = calib["logits"].argmax(axis=1) == calib["labels"]
    controller = BinaryClassificationController(
        predict_function=lambda X: np.column_stack([1 - X, X]),
        risk=precision,
        target_level=1 - ALPHA,
        confidence_level=1 - DELTA,
        list_predict_params=thresholds,
    )
    controller.calibrate(score, right.astype(int))
    best = controller.best_predict_param
    return "not certified" if best is None else f"answered {(score >= best).mean():.6f}"


def equal_width(p, bins):
    """Right-closed bins; 0 goes to the first."""
    return np.searchsorted(np.arange(1, bins) / bins, p, side="left")


def bin_errors(index, p, y, bins):
    """ECE and Kumar's debiased squared L2 error."""
    rows = np.bincount(index, minlength=bins)
    seen = rows > 0
    rows = rows[seen]
    score = np.bincount(index, p, minlength=bins)[seen] / rows
    rate = np.bincount(index, y, minlength=bins)[seen] / rows
    gap = np.abs(score - rate)
    variance = np.where(rows > 1, rate * (1 - rate) / np.maximum(rows - 1, 1), 0)
    share = rows / rows.sum()
    return (share * gap).sum(), (share * (gap**2 - variance)).sum()


def smooth_ece(p, y, points=20_001):
    """smECE (arXiv 2309.12236) on a grid: reflected Gaussian kernel, bisection for the fixed point."""
    place = p * (points - 1)
    cell = np.minimum(place.astype(int), points - 2)
    share = place - cell
    mass = np.bincount(cell, (1 - share) * (y - p), points) + np.bincount(cell + 1, share * (y - p), points)
    mass[[0, -1]] *= 2
    line = np.concatenate([mass[:0:-1], mass, mass[-2::-1]]) / len(p)
    grid = np.linspace(-1, 1, 2 * points - 1)

    def error(sigma):
        kernel = np.exp(-((grid / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
        return np.trapezoid(np.abs(fftconvolve(line, kernel, mode="valid")), dx=1 / (points - 1))

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) > middle else (low, middle)
    return high


def selective(confidence, wrong):
    """AURC, E-AURC, AUGRC, coverage at a risk of 5 %, risk at a coverage of 80 %."""
    n = len(wrong)
    errors = np.cumsum(wrong[np.argsort(-confidence, kind="stable")])
    i = np.arange(1, n + 1)
    risks = errors / i
    best = np.maximum(i - (n - errors[-1]), 0) / i
    generalised = np.concatenate([[0], errors]) / n
    within = np.flatnonzero(risks <= ALPHA)
    return {
        "aurc": risks.mean(),
        "e_aurc": risks.mean() - best.mean(),
        "augrc": np.trapezoid(generalised, dx=1 / n),
        "coverage_at_risk_0.05": (within[-1] + 1) / n if len(within) else 0.0,
        "risk_at_coverage_0.8": risks[int(np.ceil(0.8 * n)) - 1],
    }


def decomposition(p, y):
    """Stephenson's parts and CORP's, of one class."""
    index = equal_width(p, DECOMPOSITION_BINS)
    rows = np.maximum(np.bincount(index, minlength=DECOMPOSITION_BINS), 1)
    share = np.bincount(index, minlength=DECOMPOSITION_BINS) / len(p)
    score = np.bincount(index, p, DECOMPOSITION_BINS) / rows
    rate = np.bincount(index, y, DECOMPOSITION_BINS) / rows
    base = y.mean()
    calibrated = IsotonicRegression(y_min=0, y_max=1).fit(p, y).predict(p)
    isotonic = ((calibrated - y) ** 2).mean()
    return {
        "brier_reliability": (share * (score - rate) ** 2).sum(),
        "brier_resolution": (share * (rate - base) ** 2).sum(),
        "brier_uncertainty": base * (1 - base),
        "brier_within_bin_variance": ((p - score[index]) ** 2).mean(),
        "brier_within_bin_covariance": 2 * ((p - score[index]) * (y - rate[index])).mean(),
        "brier_miscalibration": ((p - y) ** 2).mean() - isotonic,
        "brier_discrimination": base * (1 - base) - isotonic,
    }


def metrics(logits, labels):
    classes = np.arange(logits.shape[1])
    p = softmax(logits.astype(np.float64), axis=1)
    predicted = p.argmax(axis=1)
    is_class = label_binarize(labels, classes=classes)
    confidence, right = p.max(axis=1), (predicted == labels).astype(float)
    order = np.argsort(confidence, kind="stable")
    mass = np.empty(len(order), dtype=int)
    mass[order] = np.repeat(np.arange(BINS), [len(part) for part in np.array_split(order, BINS)])
    ece_mass, squared = bin_errors(mass, confidence, right, BINS)
    parts = [decomposition(p[:, k], is_class[:, k].astype(float)) for k in classes]
    classwise = [bin_errors(equal_width(p[:, k], BINS), p[:, k], is_class[:, k], BINS)[0] for k in classes]
    return {
        "accuracy": accuracy_score(labels, predicted),
        "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        "mcc": matthews_corrcoef(labels, predicted),
        "f1": f1_score(labels, predicted, average="macro"),
        "auroc": roc_auc_score(labels, p, multi_class="ovr", average="macro"),
        "average_precision": average_precision_score(is_class, p, average="macro"),
        "nll": log_loss(labels, p),
        "brier": brier_score_loss(labels, p, scale_by_half=False),
        "ece": bin_errors(equal_width(confidence, BINS), confidence, right, BINS)[0],
        "ece_equal_mass": ece_mass,
        "ece_debiased": np.sqrt(max(squared, 0)),
        "ece_classwise": np.mean(classwise),
        "smooth_ece": smooth_ece(confidence, right),
        **selective(confidence, 1 - right),
        **{name: sum(part[name] for part in parts) for name in parts[0]},
    }


def shown(table):
    return ", ".join(f"{name} {value:.6f}" for name, value in sorted(table.items()))


def main():
    folder = Path(sys.argv[1])
    select, calib = (load_file(folder / f"{name}.safetensors") for name in ("select", "calib"))
    logits, labels = calib["logits"], calib["labels"]
    stages = {}
    for name, run in [
        ("temperature", lambda: temperature(logits, labels)),
        ("certify", lambda: certify(select, calib)),
        ("metrics", lambda: shown(metrics(logits, labels))),
    ]:
        start, cpu = time.perf_counter(), time.process_time()
        found = run()
        stages[name] = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "found": found,
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rows": len(labels), "classes": logits.shape[1], "stages": stages, "peak_memory_kb": peak}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
