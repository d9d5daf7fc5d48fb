"""Times `stage1 export` of large backbones, its memory, and compares what it wrote with transformers.

    STAGE1=target/release/stage1 python benches/peers/export/large.py [--presets dinov3-vitl16 dinov3-vith16plus] [--rounds 3]

Needs the packages of requirements.txt. The weights are random, as `compare.py`'s. For each preset it prints the seconds of the
command (median and range), the most memory that it had as a multiple of the weights' bytes, whether the weights lie outside of
the ONNX file (above 1.5 GB), and the largest error of the tokens that ONNX Runtime computes with the file, as a share of the
largest token that transformers computes.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from compare import ROOT, random_weights
from compare_sessions import open_session
from transformers import AutoConfig, AutoModel

SIDE, TOLERANCE = 224, 1e-4


def measured(command):
    """Runs a command; returns its seconds and the most bytes that it had in memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}: failed")
    return seconds, usage.ru_maxrss * 1024


def tokens(folder, images):
    """What transformers computes."""
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    with torch.no_grad():
        return model(images).last_hidden_state.numpy()


def examine(preset, folder, args):
    config = AutoConfig.from_pretrained(ROOT / f"models/presets/{preset}.json", attn_implementation="sdpa")
    model = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    random_weights(model)
    backbone, out = folder / preset, folder / f"{preset}.onnx"
    model.save_pretrained(backbone, max_shard_size="100GB")
    weights = (backbone / "model.safetensors").stat().st_size
    del model
    command = [args.stage1, "export", "--backbone", backbone, "--out", out, "--image-size", str(SIDE), "--overwrite"]
    rounds = [measured(command) for _ in range(args.rounds)]
    seconds, memory = [round[0] for round in rounds], max(round[1] for round in rounds)
    images = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    want = tokens(backbone, images)
    got = open_session(out, args.threads).run(["tokens"], {"pixel_values": images.numpy()})[0]
    error = np.abs(got - want).max() / np.abs(want).max()
    print(
        f"{preset}: weights {weights / 1e9:.2f} GB; {statistics.median(seconds):.1f} s"
        f" [{min(seconds):.1f}, {max(seconds):.1f}]; memory {memory / weights:.2f} x weights;"
        f" weights {'outside of' if out.with_suffix('.onnx.data').exists() else 'in'} the file; error {error:.1e}",
        flush=True,
    )
    assert error <= TOLERANCE, "it computes something else"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["dinov3-vitl16", "dinov3-vith16plus"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.stage1 = os.environ.get("STAGE1", "stage1")
    for preset in args.presets:
        with tempfile.TemporaryDirectory() as folder:
            examine(preset, Path(folder), args)


if __name__ == "__main__":
    main()
