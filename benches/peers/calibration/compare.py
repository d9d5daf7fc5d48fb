"""Runs Stage1 and its peers alternately on the same rows, and prints the medians and their ratios by stage.

    python benches/peers/calibration/compare.py [--rows 1000000] [--classes 10] [--repeats 3]

Needs the packages of requirements.txt, and cargo. Reading and generating rows isn't timed, on either side.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLE = ["cargo", "run", "--quiet", "--release", "--package", "stage1-benches", "--example", "calibration", "--"]


def output(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=HERE).stdout)


def medians(runs, key):
    stages = {name: statistics.median(run["stages"][name][key] for run in runs) for name in runs[0]["stages"]}
    return stages | {"in all": sum(stages.values())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    ours, peers = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats):
            ours.append(output([*EXAMPLE, str(args.rows), str(args.classes), folder]))
            peers.append(output([sys.executable, str(HERE / "peers.py"), folder]))
    print(f"{args.rows} rows of {args.classes} classes, medians of {args.repeats} runs each, in seconds\n")
    print(f"{'':12} {'stage1':>9} {'peers':>9} {'ratio':>7}   {'CPU: stage1':>11} {'peers':>9} {'ratio':>7}")
    clock = medians(ours, "seconds"), medians(peers, "seconds")
    processor = medians(ours, "cpu_seconds"), medians(peers, "cpu_seconds")
    names = [name for name in clock[1] if name in clock[0]]
    for name in names:
        columns = [(a[name], b[name], b[name] / a[name]) for a, b in (clock, processor)]
        print(f"{name:12}" + "  ".join(f" {a:9.3f} {b:9.3f} {ratio:6.1f}x" for a, b, ratio in columns))
    memory = [max(run["peak_memory_kb"] for run in runs) / 1024 for runs in (ours, peers)]
    print(f"{'memory, MiB':12} {memory[0]:9.0f} {memory[1]:9.0f} {memory[1] / memory[0]:6.1f}x")
    for name in names[:-1]:
        print(f"\n{name}\n  stage1: {ours[0]['stages'][name]['found']}\n  peers:  {peers[0]['stages'][name]['found']}")


if __name__ == "__main__":
    main()
