"""Cold start and steady memory of `stage1 predict` beside `peer.py`, on the folder that the example `serving_bundle` makes.

usage: python compare.py WORK [--stage1 target/release/stage1] [--runs 15]
Each run is a process from its start to its first answer, with the files in the page cache; the two take turns. Steady memory
is the resident set while image 40 to 100 of 120 are judged, one at a time. This Python runs the peer.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

arguments = argparse.ArgumentParser()
arguments.add_argument("work", type=Path)
arguments.add_argument("--stage1", default="target/release/stage1")
arguments.add_argument("--runs", type=int, default=15)
args = arguments.parse_args()
images = sorted((args.work / "images").glob("*.jpg"))
bundle = args.work / "bundle"


def commands(count):
    paths = [str(images[i % len(images)]) for i in range(count)]
    model = str(bundle / "variants/fp32/model.onnx")
    stage1 = [args.stage1, "predict", "--quiet", "--json", "--batch", "1", "--bundle", str(bundle)]
    peer = [sys.executable, str(Path(__file__).with_name("peer.py")), model, "features"]
    return {"stage1": stage1 + paths, "peer": peer + paths}


def first_answer(command):
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if not line or status != 0:
        sys.exit(f"{command[0]} failed")
    return seconds, used.ru_utime + used.ru_stime


def steady(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    sizes = []
    for number, _ in enumerate(process.stdout):
        if 40 <= number <= 100 and number % 5 == 0:
            status = Path(f"/proc/{process.pid}/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
            sizes.append(int(line.split()[1]) / 1024)
    process.wait()
    return statistics.median(sizes)


def told(name, unit, values):
    ratio = values["stage1"] / values["peer"]
    print(f"{name}: stage1 {values['stage1']:.3g} {unit}, peer {values['peer']:.3g} {unit}, ratio {ratio:.2f}")


taken = {name: [] for name in commands(1)}
for command in commands(1).values():
    first_answer(command)
for _ in range(args.runs):
    for name, command in commands(1).items():
        taken[name].append(first_answer(command))
for place, name in enumerate(["first answer", "processor time"]):
    told(name, "s", {who: statistics.median(run[place] for run in runs) for who, runs in taken.items()})
told("least first answer", "s", {who: min(run[0] for run in runs) for who, runs in taken.items()})
told("steady memory", "MiB", {who: steady(command) for who, command in commands(120).items()})
