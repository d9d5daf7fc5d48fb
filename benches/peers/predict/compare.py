"""`stage1` beside Pillow + NumPy + Python's ONNX Runtime: JPEGs of 1920 x 1080, from bytes to decision, alternately.

    python benches/peers/predict/compare.py WORK [--rounds 8] [--images 24] [--only latency throughput cold memory]

Needs the packages of requirements.txt, and cargo unless --stage1 and --examples name what is built. WORK gets a DINOv3 ViT-S/16
with random weights, torch's exports of it (TorchScript and dynamo, one shape each), our bundles of the same weights (fp32, int8,
and the head on block 6 of 12, each with `preprocess.decode` full and scaled), and images; it is used again. --rounds 0 makes these alone.

Each round runs every subject once, in processes of their own, in an order drawn anew. What is printed is the median over the rounds
of our figure as a share of the peer's in the same round, with a bootstrap interval (95 %, over rounds). The peer is run in
several ways (peer.py), with either of torch's exports (for throughput, the faster), and the best of its figures in a round counts.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE.parent / "export"))

import numpy as np
import onnxruntime
from compare_sessions import cpu, interval
from PIL import Image

WIDTH, HEIGHT = 1920, 1080
EXPORTS = ("torchscript", "dynamo")
# What is compared: title, our subject, the goal, and whether less is better.
GOALS = {
    "latency": [("median latency, fp32", "fp32", 0.80, True), ("the same, decode: scaled", "fp32-scaled", 0.80, True)],
    "throughput": [
        ("throughput, fp32", "fp32", 1.3, False),
        ("the same, decode: scaled", "fp32-scaled", 1.3, False),
        ("throughput, int8", "int8", 1.7, False),
        ("the same, decode: scaled", "int8-scaled", 1.7, False),
        ("throughput, head on block 6 of 12", "half", 2.3, False),
        ("the same, decode: scaled", "half-scaled", 2.3, False),
    ],
    "cold": [("cold start, fp32", "fp32", 0.80, True)],
    "memory": [("steady memory, fp32", "fp32", 0.85, True), ("steady memory, int8", "int8", 0.50, True)],
}


def run(command, **more):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def make(work, args):
    """Models, bundles and images."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "made.json").exists():
        example = [] if args.examples is None else ["--example", args.examples / "export"]
        run([sys.executable, HERE.parent / "export/compare.py", "--folder", work, "--rounds", 0, "--batches", 1, 8, *example])
    if not (work / "half-scaled/bundle.json").exists():
        cargo = ["cargo", "run", "--quiet", "--release", "--package", "stage1-benches", "--example", "predict_bundles", "--"]
        library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime.so.{onnxruntime.__version__}"
        own = cargo if args.examples is None else [args.examples / "predict_bundles"]
        run([*own, work], cwd=ROOT, env={"ORT_DYLIB_PATH": str(library)} | os.environ)
    if not (work / "images/15.jpg").exists():
        photographs(work / "images")


def photographs(folder):
    """Enlarged cut-outs of the goldens' photographs, with the grain of a sensor, at usual qualities."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    sources = [Image.open(ROOT / "goldens/preprocess" / name).convert("RGB") for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
    for i in range(16):
        source = sources[i % len(sources)]
        share = generator.uniform(0.6, 1.0)
        width = int(min(source.width, source.height * WIDTH / HEIGHT) * share)
        height = width * HEIGHT // WIDTH
        left = int(generator.integers(0, source.width - width + 1))
        top = int(generator.integers(0, source.height - height + 1))
        image = source.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        grain = generator.normal(0, 6, (HEIGHT, WIDTH, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
        image.save(folder / f"{i:02}.jpg", quality=int(generator.integers(85, 91)))


class Subjects:
    """Ours and the peer's figures, each by a function that runs it once."""

    def __init__(self, args):
        self.args = args

    def bundle(self, subject):
        form, *scaled = subject.split("-")
        folder = "-".join(["half" if form == "half" else "bundle", *scaled])
        variant = "int8" if form == "int8" else "fp32"
        return ["--bundle", self.args.work / folder, "--variant", variant, "--threads", self.args.threads]

    def bench(self, subject, *more):
        command = [self.args.stage1, "bench", "--json", "--quiet", *self.bundle(subject), "--cold-starts", 0, "--memory-images", 0]
        [found] = json.loads(run([*command, *more, self.args.work / "images"]))["configurations"]
        return found

    def peer(self, *words):
        return json.loads(run([sys.executable, HERE / "peer.py", *words]))

    def model(self, export, batch):
        return self.args.work / f"{export}.mean.{batch}.onnx"

    def latency(self):
        n, threads, images = self.args.images, self.args.threads, self.args.work / "images"
        own = lambda subject: self.bench(subject, "--batch", 1, "--iterations", n, "--warmup", 5)["latency_ms"]
        subjects = {subject: lambda subject=subject: own(subject)["end_to_end"]["p50"] for subject in ("fp32", "fp32-scaled")}
        for export in EXPORTS:
            subjects[f"peer, {export}"] = lambda export=export: self.peer("loop", self.model(export, 1), threads, images, n)["total"]
        return subjects

    def throughput(self):
        n, threads, images = self.args.images, self.args.threads, self.args.work / "images"
        own = lambda subject: self.bench(subject, "--batch", self.args.batch, "--iterations", 1, "--warmup", 1)
        rate = lambda subject: own(subject)["throughput"]["images_per_second"]
        names = [form + decode for form in ("fp32", "int8", "half") for decode in ("", "-scaled")]
        subjects = {subject: lambda subject=subject: rate(subject) for subject in names}
        for way, size in (("loop", 1), ("workers", 1), ("batches", 8)):
            words = (way, self.model(EXPORTS[0], size), threads, images, 2 * n)
            subjects[f"peer, {way}"] = lambda words=words: self.rate(self.peer(*words))
        return subjects

    @staticmethod
    def rate(found):
        return found.get("images_per_second") or 1e3 / found["total"]

    def cold(self):
        image = self.args.work / "images/00.jpg"
        own = [self.args.stage1, "predict", "--json", "--quiet", *self.bundle("fp32"), image]
        subjects = {"fp32": lambda: first_line(own)}
        for export in EXPORTS:
            words = [sys.executable, HERE / "peer.py", "once", self.model(export, 1), image]
            subjects[f"peer, {export}"] = lambda words=words: first_line(words)
        return subjects

    def memory(self):
        paths = sorted(str(path) for path in (self.args.work / "images").iterdir())
        paths = (paths * self.args.images)[: 2 * self.args.images]
        own = [self.args.stage1, "predict", "--json", "--quiet", "--batch", self.args.memory_batch]
        subjects = {}
        for subject in ("fp32", "int8"):
            subjects[subject] = lambda subject=subject: resident([*own, *self.bundle(subject), "-"], paths)
        for export in EXPORTS:
            words = [sys.executable, HERE / "peer.py", "stream", self.model(export, 1), self.args.threads]
            subjects[f"peer, {export}"] = lambda words=words: resident(words, paths)
        return subjects


def first_line(command):
    """Milliseconds from the start of a process to the end of its first line."""
    start = time.perf_counter()
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"{")
        return 1e3 * (time.perf_counter() - start)


def resident(command, paths):
    """MiB of a process that judges a list of images: the median over its second half."""
    found = []
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write("".join(f"{path}\n" for path in paths))
        process.stdin.close()
        for line in process.stdout:
            assert line.startswith("{")
            status = Path(f"/proc/{process.pid}/status").read_text()
            # A process that has ended has none.
            if "VmRSS:" in status:
                found.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
    assert process.returncode == 0 and len(found) > len(paths) // 2
    return float(np.median(found[len(found) // 2 :]))


def compare(what, args, generator):
    subjects = getattr(Subjects(args), what)()
    found = {name: [] for name in subjects}
    names = list(subjects)
    for _ in range(args.rounds):
        random.shuffle(names)
        for name in names:
            found[name].append(subjects[name]())
    found = {name: np.array(figures) for name, figures in found.items()}
    for name, figures in found.items():
        print(f"  {what:10} {name:32} {np.median(figures):9.2f}   from {figures.min():.2f} to {figures.max():.2f}")
    peers = np.stack([figures for name, figures in found.items() if name.startswith("peer")])
    for title, subject, goal, less in GOALS[what]:
        ratios = found[subject] / (peers.min(axis=0) if less else peers.max(axis=0))
        low, high = interval(ratios, generator)
        met = high <= goal if less else low >= goal
        sign = "<=" if less else ">="
        print(f"{title:36} {np.median(ratios):.3f} [{low:.3f}, {high:.3f}]   goal {sign} {goal}: {'met' if met else 'not met'}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="where models, bundles and images are, or go")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images that go through our model together, for throughput")
    parser.add_argument("--memory-batch", type=int, default=1, help="the same, for memory")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--images", type=int, default=24, help="images of each measurement of latency")
    parser.add_argument("--only", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--stage1", type=Path, default=ROOT / "target/release/stage1")
    parser.add_argument("--examples", type=Path, help="the folder of the built examples of stage1-benches")
    args = parser.parse_args()
    random.seed(0)
    generator = np.random.default_rng(0)
    make(args.work, args)
    sizes = [path.stat().st_size for path in (args.work / "images").iterdir()]
    print(f"{cpu()}, {args.threads} threads, onnxruntime {onnxruntime.__version__}; {args.rounds} rounds")
    print(f"DINOv3 ViT-S/16 at 224 px, random weights; {len(sizes)} JPEGs of {WIDTH}x{HEIGHT}, {np.mean(sizes) / 1e3:.0f} kB on average")
    for what in args.only if args.rounds else []:
        compare(what, args, generator)


if __name__ == "__main__":
    main()
