"""Times the trainer beside PyTorch, transformers and PEFT on the same files.

    python benches/peers/train/compare.py [--tasks probe features lora] [--rounds 8] [--steps 20] [--threads 2]

Needs the packages of requirements.txt, and cargo. Processes of the probe run alternately. Of the other tasks both processes
are started, one is held while the other takes a step, and so on in turn: what else the machine does meets both. What is printed
is the median of our time as a share of the peer's beside it, and a bootstrap interval of that (95 %), on the clock and of
processor time. Memory is the most that each process had. Weights and images are random.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PEERS = [sys.executable, str(HERE / "peers.py")]
RESAMPLES = 2000
ROWS, WIDTH, CLASSES, BATCH, EPOCHS = 20_000, 768, 10, 512, 40
SIDE, LORA_BATCH, FEATURE_BATCH, RANK = 224, 8, 8, 16
# Steps of each side before those that count.
WARM = 1
# Images of each split but train.
OTHERS = 4

CONFIG = f"""
version: 1
phase: peft
run_dir: {{folder}}/run
threads: {{threads}}
data: {{{{source: {{folder}}/images.csv, root: {{folder}}/images, near: {{{{enabled: false}}}}}}}}
preprocess:
  resize: {{{{exact: {{{{height: {SIDE}, width: {SIDE}}}}}}}}}
  filter: bicubic
  arithmetic: pillow
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
backbone: {{{{path: {{folder}}/backbone}}}}
train:
  epochs: 1
  batch_size: {LORA_BATCH}
  feature_batch_size: {FEATURE_BATCH}
peft: {{{{target_modules: [query, value], r: {RANK}, lora_alpha: {2 * RANK}}}}}
"""


def make(folder, args):
    """A random DINOv2-S, photographs of noise, their splits, a configuration, and features for a head."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(ROOT / "models/presets/dinov2-small.json")
    AutoModel.from_config(config).save_pretrained(folder / "backbone")
    lines = ["path,label,split"]
    # One more, by which the peer is ready, and one that waits.
    train = (WARM + args.steps + 2) * max(LORA_BATCH, FEATURE_BATCH)
    for split, count in {"train": train, "val_select": OTHERS, "val_calib": OTHERS, "val_test": OTHERS}.items():
        for n in range(count):
            label = f"class{n % 2}"
            path = folder / "images" / label / f"{split}-{n:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Grey, since decoders differ in how they enlarge colours.
            small = generator.integers(64, 192, (24, 32), dtype=np.uint8)
            Image.fromarray(small).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
            lines.append(f"{label}/{path.name},{label},{split}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    (folder / "stage1.yaml").write_text(CONFIG.format(folder=folder, threads=args.threads))
    task = {"side": SIDE, "batch": LORA_BATCH, "feature_batch": FEATURE_BATCH, "r": RANK}
    (folder / "task.json").write_text(json.dumps(task))
    split = [args.target / "stage1", "split", "--config", folder / "stage1.yaml", "--quiet"]
    subprocess.run(split, check=True, stdout=subprocess.DEVNULL)
    labels = generator.integers(0, CLASSES, ROWS)
    centres = 0.1 * generator.standard_normal((CLASSES, WIDTH), np.float32)
    features = centres[labels] + generator.standard_normal((ROWS, WIDTH), np.float32)
    save_file({"features": features, "labels": labels.astype(np.float32)}, folder / "probe.safetensors")


def run(command):
    """The JSON object that a process prints."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout)


class Held:
    """A process that runs only while it takes a step, after which it prints an event."""

    def __init__(self, command, event):
        self.event = event
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.memory = 0

    def wait_for(self, is_there):
        """Lets it run until a line says so."""
        for line in self.process.stdout:
            if is_there(json.loads(line)):
                self.signal(signal.SIGSTOP)
                return
        raise RuntimeError(f"{self.command} has ended too soon")

    def step(self):
        """Seconds on the clock and of processor time (of all its processes) of its next step."""
        processor, start = self.processor(), time.perf_counter()
        self.signal(signal.SIGCONT)
        self.wait_for(lambda line: line["event"] == self.event)
        seconds = time.perf_counter() - start
        self.memory = max(self.memory, peak_memory(self.process.pid))
        return np.array([seconds, self.processor() - processor])

    def processor(self):
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it has ended meanwhile
            if int(fields[2]) == self.process.pid:  # the group
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def end(self):
        self.signal(signal.SIGKILL)
        self.process.wait()


def peak_memory(pid):
    """In KiB, without the peer's processes that decode images."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def interval(ratios):
    picks = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(np.array(ratios)[picks], axis=1), [2.5, 97.5])
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


def tell(title, unit, ours, peer, memory, goal):
    """`ours` and `peer` are times [n], or [n, 2] with processor time."""
    ours, peer = (np.reshape(np.array(times), (len(times), -1)) for times in (ours, peer))
    medians = [np.median(times[:, 0]) for times in (ours, peer)]
    print(f"{title}\n  {unit}: ours {medians[0]:.4g}, peer {medians[1]:.4g}; ratio {interval(ours[:, 0] / peer[:, 0])}, goal {goal}")
    if ours.shape[1] == 2:
        print(f"  processor time: ratio {interval(ours[:, 1] / peer[:, 1])}")
    ours, peer = (kib / 1024 for kib in memory)
    print(f"  memory, MiB: ours {ours:.0f}, peer {peer:.0f}: {ours / peer:.2f}, goal 1.1", flush=True)


def probe(folder, args):
    file, arguments = folder / "probe.safetensors", [EPOCHS, BATCH, args.threads]
    commands = {"ours": [args.target / "examples/probe", file, *arguments]}
    commands |= {reading: [*PEERS, "probe", file, *arguments, reading] for reading in ("loader", "indexed")}
    times, memory = ({name: [] for name in commands} for _ in range(2))
    for _ in range(args.rounds):
        for name in random.sample(list(commands), len(commands)):
            report = run(commands[name])
            # The first epochs start threads and fill caches.
            times[name].append(np.median(report["seconds"][EPOCHS // 4 :]))
            memory[name].append(report["peak_memory_kb"])
    for reading, goal in (("loader", "0.2"), ("indexed", "1.0")):
        source = {"loader": "a DataLoader", "indexed": "a tensor by their indices"}[reading]
        title = f"an epoch on {ROWS} x {WIDTH} features, batches of {BATCH}; the peer takes them from {source}"
        both = max(memory["ours"]), max(memory[reading])
        tell(title, "s per epoch", times["ours"], times[reading], both, goal)


def in_turn(folder, args, title, unit, stage, peer):
    """Steps of the trainer in one of its stages, and of the peer."""
    options = ["--events", "--overwrite", "--set", "train.save_every_seconds=3600"]
    peer = Held([*PEERS, peer, folder, args.threads], "step")
    try:
        peer.step()
        ours = Held([args.target / "stage1-train", "--config", folder / "stage1.yaml", *options], "progress")
        try:
            ours.wait_for(lambda line: line.get("name") == stage)
            times = {ours: [], peer: []}
            for _ in range(WARM + args.steps):
                for side in random.sample([ours, peer], 2):
                    times[side].append(side.step())
            counted = [times[side][WARM:] for side in (ours, peer)]
            tell(title, unit, *counted, (ours.memory, peer.memory), "1.03")
        finally:
            ours.end()
    finally:
        peer.end()


def features(folder, args):
    shutil.rmtree(folder / "cache", ignore_errors=True)
    title = f"frozen features of JPEG files, DINOv2-S at {SIDE} px"
    in_turn(folder, args, title, f"s per batch of {FEATURE_BATCH}", "features", "features")


def lora(folder, args):
    title = f"LoRA of q and v (rank {RANK}) through DINOv2-S at {SIDE} px, with its head"
    in_turn(folder, args, title, f"s per step of {LORA_BATCH} images", "images", "lora")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=8, help="of the probe")
    parser.add_argument("--steps", type=int, default=20, help="of the other tasks")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", type=Path, help="where the trainer, its examples and stage1 are built already")
    args = parser.parse_args()
    if args.target is None:
        packages = ["--package", "stage1", "--package", "stage1-trainer", "--bins", "--examples"]
        subprocess.run(["cargo", "build", "--quiet", "--release", *packages], check=True, cwd=ROOT)
        args.target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make(folder, args)
        print(f"{args.rounds} rounds, {args.steps} steps, {args.threads} threads, torch {torch.__version__}", flush=True)
        for task in args.tasks:
            TASKS[task](folder, args)


TASKS = {"probe": probe, "features": features, "lora": lora}

if __name__ == "__main__":
    main()
