"""The program that one would write: Pillow, NumPy and ONNX Runtime, from the bytes of a JPEG to a decision.

usage: peer.py once MODEL IMAGE                         prints one decision: the time until then is the cold start
       peer.py loop MODEL THREADS FOLDER IMAGES         one image at a time; prints milliseconds by stage
       peer.py workers MODEL RUNS FOLDER IMAGES         RUNS threads, each with a session of one thread; prints images/s
       peer.py batches MODEL THREADS FOLDER IMAGES      batches of MODEL's size, while a pool decodes the next; prints images/s
       peer.py stream MODEL THREADS                     a decision per path on standard input
"""

import io
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
SCALE = 1 / np.array([0.229, 0.224, 0.225], np.float32)
WARM_UP = 5


def open_session(model, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def decode(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def resize(image):
    return image.resize((224, 224), Image.Resampling.BILINEAR)


def normalise(image):
    pixels = (np.asarray(image, np.float32) * np.float32(1 / 255) - MEAN) * SCALE
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def prepare(path):
    return normalise(resize(decode(Path(path).read_bytes())))


def decide(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = powers / powers.sum()
    label = int(probabilities.argmax())
    probability = float(probabilities[label])
    return {"decision": "answer" if probability >= 0.01 else "defer", "label": label, "probability": probability, "logits": logits.tolist()}


def run(session, pixels):
    return session.run(["logits"], {"pixel_values": pixels})[0]


def judge(session, path):
    return decide(run(session, prepare(path)[None])[0])


def images(folder, count):
    return list(islice(cycle(sorted(Path(folder).iterdir())), int(count)))


def once(model, image, threads="2"):
    print(json.dumps(judge(open_session(model, int(threads)), image)), flush=True)


def loop(model, threads, folder, count):
    session = open_session(model, int(threads))
    stages = {"decode": [], "resize": [], "normalise": [], "run": [], "total": []}
    for i, path in enumerate(images(folder, WARM_UP + int(count))):
        at = [time.perf_counter()]
        image = decode(path.read_bytes())
        at.append(time.perf_counter())
        image = resize(image)
        at.append(time.perf_counter())
        pixels = normalise(image)[None]
        at.append(time.perf_counter())
        logits = run(session, pixels)[0]
        at.append(time.perf_counter())
        decide(logits)
        times = [*np.diff(at), time.perf_counter() - at[0]]
        if i >= WARM_UP:
            for name, seconds in zip(stages, times):
                stages[name].append(1e3 * seconds)
    print(json.dumps({name: float(np.median(times)) for name, times in stages.items()}))


def rate(count, work):
    """Images per second of `work`, once it is warm."""
    work(WARM_UP)
    start = time.perf_counter()
    work(count)
    print(json.dumps({"images_per_second": count / (time.perf_counter() - start)}))


def workers(model, runs, folder, count):
    local = threading.local()

    def one(path):
        if not hasattr(local, "session"):
            local.session = open_session(model, 1)
        return judge(local.session, path)

    with ThreadPoolExecutor(int(runs)) as pool:
        rate(int(count), lambda n: list(pool.map(one, images(folder, n))))


def batches(model, threads, folder, count):
    session = open_session(model, int(threads))
    size = session.get_inputs()[0].shape[0]

    def work(n):
        paths = images(folder, n + -n % size)
        groups = [paths[i : i + size] for i in range(0, len(paths), size)]
        with ThreadPoolExecutor(int(threads)) as pool:
            start = lambda group: [pool.submit(prepare, path) for path in group]
            ahead = [start(group) for group in groups[:2]]
            for i in range(len(groups)):
                pixels = np.stack([future.result() for future in ahead[i]])
                if i + 2 < len(groups):
                    ahead.append(start(groups[i + 2]))
                ahead[i] = None
                for logits in run(session, pixels):
                    decide(logits)

    rate(int(count), work)


def stream(model, threads):
    session = open_session(model, int(threads))
    for line in sys.stdin:
        print(json.dumps(judge(session, line.rstrip("\n"))), flush=True)


mode, *arguments = sys.argv[1:]
{"once": once, "loop": loop, "workers": workers, "batches": batches, "stream": stream}[mode](*arguments)
