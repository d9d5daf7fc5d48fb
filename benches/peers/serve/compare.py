"""`stage1 serve` beside the FastAPI peer, alternately, under the same load generator.

usage: compare.py WORK [--stage1 PATH] [--load PATH] [--seconds S] [--rounds N] [--concurrency 1 2 4 8 16] [--options "--instances 2"] [--peer-runs 2] [--peer-threads 1]
WORK is what the example `serving_bundle` made. Prints a table: requests per second and latencies at each concurrency, medians of the rounds,
and how many requests per second either server does within the latency (p99) that the peer has at its best throughput.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

here = Path(__file__).resolve().parent
release = here.parents[2] / "target" / "release"
arguments = argparse.ArgumentParser()
arguments.add_argument("work", type=Path)
arguments.add_argument("--stage1", default=release / "stage1")
arguments.add_argument("--load", default=release / "examples" / "load")
arguments.add_argument("--seconds", type=float, default=10)
arguments.add_argument("--rounds", type=int, default=1)
arguments.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16])
arguments.add_argument("--bundle", default="bundle", help="the bundle that ours serves, in WORK")
arguments.add_argument("--options", default="", help='further options of ours, e.g. --options="--instances 2"')
arguments.add_argument("--peer-runs", default="2")
arguments.add_argument("--peer-threads", default="1")
args = arguments.parse_args()


def wait_for(port, path):
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing answers on port {port}")


def ours():
    command = [args.stage1, "serve", "--bundle", f"m={args.work / args.bundle}", "--http", "127.0.0.1:8700", "--grpc", "none", "--quiet", *args.options.split()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(8700, "/readyz")
    return process, 8700


def peer():
    model = args.work / "bundle" / "variants" / "fp32" / "model.onnx"
    command = [sys.executable, here / "peer.py", model, "pixel_values", "features", "8701", args.peer_threads, args.peer_runs]
    process = subprocess.Popen(command)
    wait_for(8701, "/")
    return process, 8701


def measure(start, concurrency):
    process, port = start()
    try:
        command = [args.load, f"127.0.0.1:{port}", args.work / "images", "closed", str(concurrency), str(args.seconds)]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    finally:
        process.terminate()
        process.wait()


def median(reports, *keys):
    def value(report):
        for key in keys:
            report = report[key]
        return report

    return statistics.median(value(report) for report in reports)


servers = {"stage1": ours, "peer": peer}
found = {name: {n: [] for n in args.concurrency} for name in servers}
for _ in range(args.rounds):
    for n in args.concurrency:
        for name, start in servers.items():
            found[name][n].append(measure(start, n))
            report = found[name][n][-1]
            if report["failed"] or report["refused"]:
                sys.exit(f"{name} failed at concurrency {n}: {report}")

print(f"| server | concurrency | requests/s | p50 ms | p95 ms | p99 ms | cores of the load |\n|---|---|---|---|---|---|---|")
table = {}
for name, by_concurrency in found.items():
    for n, reports in by_concurrency.items():
        rate, p50, p95, p99 = (median(reports, *keys) for keys in [("requests_per_second",), ("ms", "p50"), ("ms", "p95"), ("ms", "p99")])
        table.setdefault(name, []).append((rate, p99))
        cores = median(reports, "generator", "cores")
        print(f"| {name} | {n} | {rate:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {cores:.2f} |")

best, budget = max(table["peer"])
within = max((rate for rate, p99 in table["stage1"] if p99 <= budget), default=0)
print(f"\nwithin p99 <= {budget:.0f} ms (the peer's at its best throughput, {best:.1f}/s): stage1 {within:.1f}/s, {within / best:.2f} times the peer's")
print(f"cores: {os.cpu_count()}")
