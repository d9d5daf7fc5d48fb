"""Times our exports of a DINOv3 ViT-S/16 beside torch's two ONNX exporters, alternately in one process.

    python benches/peers/export/compare.py [--threads 2] [--rounds 60] [--batches 1 8] [--forms mean cls half ...]

Needs the packages of requirements.txt, and cargo. The weights are random. The peers' exports are of one fixed shape for each
batch, ours take any number of images, as in a bundle. All run in ONNX Runtime with the same options; each round runs each
of them once, in an order drawn anew. What is printed for a model is the median over the rounds of its time as a share of the
faster peer's in the same round, and a bootstrap interval of that (95 %, over rounds).

With --folder the models are kept there and used again, so that a machine needs to be quiet for the timing only:
--rounds 0 makes them.
"""

import argparse
import itertools
import os
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from compare_sessions import cpu, interval, open_session, time_all
from safetensors import safe_open as TensorFile
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
EXAMPLE = ["cargo", "run", "--quiet", "--release", "--package", "stage1-benches", "--example", "export", "--"]
SIDE, CLASSES, SAMPLE = 224, 10, 8
PEERS = ("torchscript", "dynamo")
# Ours, with the peer that computes the same; the upper end of the interval is to be at most the target.
FORMS = {
    "mean": ("CLS + mean head, fp32", "mean", 1.03),
    "cls": ("CLS head, fp32", "cls", 0.96),
    "half": ("head on block 6 of 12, fp32", "mean", 0.53),
    "fp16": ("CLS + mean head, fp16", "mean", None),
    "int8-8bit": ("CLS + mean head, int8, weights of 8 bits", "mean", None),
    "int8-7bit": ("CLS + mean head, int8, weights of 7 bits", "mean", None),
}


class Classifier(torch.nn.Module):
    """The backbone with a linear head, as one would write it."""

    def __init__(self, backbone, mean):
        super().__init__()
        self.backbone, self.mean = backbone, mean
        self.prefix = 1 + backbone.config.num_register_tokens
        self.head = torch.nn.Linear(backbone.config.hidden_size * (1 + mean), CLASSES)

    def forward(self, pixel_values):
        output = self.backbone(pixel_values)
        features = output.pooler_output
        if self.mean:
            patches = output.last_hidden_state[:, self.prefix :].mean(dim=1)
            features = torch.cat([features, patches], dim=1)
        return self.head(features)


def random_weights(model):
    """As trained weights are: norms near 1, LayerScale that lets blocks matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name or "lambda" in name:
                parameter.fill_(0.3)
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.04, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.02, generator=generator))


def make(folder, batches, example):
    """Writes the backbone, the heads, torch's exports and ours."""
    config = AutoConfig.from_pretrained(ROOT / "models/presets/dinov3-vits16.json", attn_implementation="sdpa")
    backbone = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    random_weights(backbone)
    backbone.save_pretrained(folder / "backbone")
    images = torch.randn(SAMPLE, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    save_file({"pixel_values": images}, folder / "sample.safetensors")
    names = {"input_names": ["pixel_values"], "output_names": ["logits"], "opset_version": 18}
    for kind in ("cls", "mean"):
        model = Classifier(backbone, kind == "mean").eval()
        head = {f"head.{name}": value.detach().clone() for name, value in model.head.named_parameters()}
        save_file(head, folder / f"head.{kind}.safetensors")
        for batch, exporter in itertools.product(batches, PEERS):
            path = folder / f"{exporter}.{kind}.{batch}.onnx"
            with torch.no_grad():
                torch.onnx.export(model, (images[:batch],), path, dynamo=exporter == "dynamo", **names)
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime.so.{onnxruntime.__version__}"
    environment = os.environ | {"ORT_DYLIB_PATH": str(library)}
    done = subprocess.run([*example, str(folder)], check=True, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
    (folder / "made.json").write_bytes(done.stdout)


def agreement(sessions, images, batch):
    """Checks that the same is computed: logits differ from a peer's by at most 1e-4 of their scale."""
    logits = {name: session.run(None, {"pixel_values": images})[0] for name, session in sessions.items()}
    for kind in ("cls", "mean"):
        want = logits[f"dynamo.{kind}.{batch}"]
        for name in {f"torchscript.{kind}.{batch}", f"stage1.{kind}"} & logits.keys():
            error = np.abs(logits[name] - want).max() / np.abs(want).max()
            assert error <= 1e-4, f"{name} computes something else: {error:.1e}"


def compare(folder, batch, args, generator):
    """Prints the rows of one batch."""
    peers = [f"{exporter}.{kind}.{batch}" for kind in ("cls", "mean") for exporter in PEERS]
    names = peers + [f"stage1.{form}" for form in args.forms]
    sessions = {name: open_session(folder / f"{name}.onnx", args.threads) for name in names}
    with TensorFile(folder / "sample.safetensors", "np") as file:
        images = file.get_tensor("pixel_values")[:batch]
    agreement(sessions, images, batch)
    times = time_all(sessions, images, args.rounds)
    print(f"batch {batch}: ms per image (median), and the ratio to the faster peer")
    for name in peers:
        print(f"  {name:42} {1e3 * np.median(times[name]) / batch:7.1f}")
    for form in args.forms:
        title, kind, target = FORMS[form]
        peer = min((times[f"{exporter}.{kind}.{batch}"] for exporter in PEERS), key=np.median)
        own = times[f"stage1.{form}"]
        low, high = interval(own / peer, generator)
        text = f"  {title:42} {1e3 * np.median(own) / batch:7.1f}   {np.median(own / peer):.3f} [{low:.3f}, {high:.3f}]"
        print(text + ("" if target is None else f"   target {target}: {'met' if high <= target else 'missed'}"))
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--folder", type=Path, help="where the models are, or go")
    parser.add_argument("--example", type=Path, help="the example `export` of stage1-benches, if it is built already")
    args = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "made.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, args.batches, EXAMPLE if args.example is None else [args.example])
        print(f"{cpu()}, {args.threads} threads, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")
        print(f"DINOv3 ViT-S/16 at {SIDE} px, random weights, {args.rounds} rounds; {(folder / 'made.json').read_text()}")
        for batch in args.batches if args.rounds else []:
            compare(folder, batch, args, generator)


if __name__ == "__main__":
    main()
