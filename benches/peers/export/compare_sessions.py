"""Sessions that run alternately in one process, and what their times say."""

import random
import time
from pathlib import Path

import numpy as np
import onnxruntime

RESAMPLES = 2000
# The threads of the session before wait actively for 40 ms, and would take a core from the next one.
PAUSE = 0.08


def open_session(path, threads):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def interval(ratios, generator):
    picks = generator.integers(0, len(ratios), (RESAMPLES, len(ratios)))
    return np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])


def time_all(sessions, images, rounds):
    """Seconds of each session in each round."""
    times = {name: [] for name in sessions}
    order = list(sessions)
    for _ in range(3):
        for session in sessions.values():
            session.run(None, {"pixel_values": images})
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            time.sleep(PAUSE)
            start = time.perf_counter()
            sessions[name].run(None, {"pixel_values": images})
            times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


def cpu():
    text = Path("/proc/cpuinfo").read_text()
    name = next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    flags = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni") if f" {flag} " in text]
    return f"{name} ({', '.join(flags)})"
