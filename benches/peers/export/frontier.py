"""The time of int8 variants of a run's model against the labels that they change on val_select.

    python benches/peers/export/frontier.py RUN_DIR [--choices 0.01:8 0.02:8 ... 1.0:7] [--rounds 100] [--threads 2]

RUN_DIR holds a finished run (config.yaml, bundle/). For each choice, a value of `export.int8.max_error` and one of
`export.int8.weight_bits`, a copy of it gets an int8 variant from `stage1 export`, with the limits on flips and parity
lifted; then all models run alternately in one process. With --folder the copies are kept there and used again, so that a
machine needs to be quiet for the timing only: --rounds 0 makes them.
Needs numpy and onnxruntime of requirements.txt, and `stage1` and `stage1-train` on the PATH (or STAGE1 and
STAGE1_TRAIN_BIN).
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from compare_sessions import cpu, interval, open_session, time_all

SIZES = [1, 8]
CHOICES = ["0.01:8", "0.02:8", "0.03:8", "0.04:8", "1.0:8", "0.03:7", "0.04:7", "1.0:7"]


def export(run, copy, choice):
    """What became of a copy of the run whose bundle gets the variant int8."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("int8", "*.int8.json", "feature*", "cache"))
    manifest = copy / "bundle/bundle.json"
    document = json.loads(manifest.read_text())
    document["variants"].pop("int8", None)
    manifest.write_text(json.dumps(document))
    max_error, bits = choice.split(":")
    settings = {
        "run_dir": copy,
        "export.int8.max_error": max_error,
        "export.int8.weight_bits": bits,
        "export.int8.parity_tolerance": 0.999,
        "export.max_flip_rate": 0.999,
    }
    command = [os.environ.get("STAGE1", "stage1"), "export", "--json", "-c", run / "config.yaml", "--precision", "int8"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    (copy / "made.json").write_text(json.dumps(answer["variants"]["int8"]))


def described(copy):
    made = json.loads((copy / "made.json").read_text())
    return {
        "model": copy / "bundle/variants/int8/model.onnx",
        "flips": made["parity"]["flips"],
        "error": made["recipe"]["error"],
        "layers": made["recipe"]["lowered"],
        "float32": len(made["recipe"]["float32"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--choices", nargs="+", default=CHOICES, metavar="MAX_ERROR:BITS")
    parser.add_argument("--folder", type=Path, help="where the copies of the run are, or go")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    random.seed(0)
    generator = np.random.default_rng(0)
    run = args.run.resolve()
    variants = run / "bundle/variants"
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        points = {}
        for choice in args.choices:
            copy = folder.resolve() / f"run-{choice.replace(':', '-')}"
            if not (copy / "made.json").exists():
                shutil.rmtree(copy, ignore_errors=True)
                export(run, copy, choice)
            points["int8, at most {}, {} bits".format(*choice.split(":"))] = described(copy)
        if args.rounds == 0:
            return
        if (variants / "fp16/model.onnx").is_file():
            flips = json.loads((variants / "fp16/parity.json").read_text())["flips"]
            points["fp16"] = {"model": variants / "fp16/model.onnx", "flips": flips}
        paths = {"fp32": variants / "fp32/model.onnx"} | {name: point["model"] for name, point in points.items()}
        sessions = {name: open_session(path, args.threads) for name, path in paths.items()}
        shape = sessions["fp32"].get_inputs()[0].shape[1:]
        images = np.random.default_rng(1).standard_normal([max(SIZES), *shape], dtype=np.float32)
        ratios = {}
        for size in SIZES:
            times = time_all(sessions, images[:size], args.rounds)
            print(f"batch {size}: fp32 {1e3 * np.median(times['fp32']) / size:.2f} ms per image")
            for name in points:
                ratios[name, size] = times[name] / times["fp32"]
    print(f"{cpu()}, {args.threads} threads, onnxruntime {onnxruntime.__version__}, {args.rounds} rounds\n")
    print("| variant | layers in int8 | in fp32 | error on train | flips | " + " | ".join(f"batch {n}" for n in SIZES) + " |")
    print("|---|---|---|---|---|" + "---|" * len(SIZES))
    for name, point in points.items():
        flips = point["flips"]
        error = f"{point['error']:.3f}" if "error" in point else ""
        cells = [name, point.get("layers", ""), point.get("float32", ""), error]
        cells.append(f"{flips['flips']} of {flips['images']} ({100 * flips['flips'] / flips['images']:.1f} %)")
        for size in SIZES:
            low, high = interval(ratios[name, size], generator)
            cells.append(f"{np.median(ratios[name, size]):.2f} [{low:.2f}, {high:.2f}]")
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
