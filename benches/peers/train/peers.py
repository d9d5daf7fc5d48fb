"""What one would write in PyTorch, with transformers and PEFT, for the trainer's three costs.

    python peers.py probe FILE EPOCHS BATCH THREADS indexed|loader      # a linear head on features in memory
    python peers.py features FOLDER THREADS                           # a frozen backbone's features of image files
    python peers.py lora FOLDER THREADS                               # LoRA and a head, through the backbone

The first prints one JSON object: seconds of each epoch, loss and peak memory; the others a line after each step. FOLDER is what
compare.py makes.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Decoding beside the computation, as the trainer does it.
WORKERS = 1


def average(module):
    """An exponential moving average of the weights, updated each step, as the trainer keeps one."""
    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))


def probe(file, epochs, batch, threads, reading):
    from safetensors.torch import load_file

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    tensors = load_file(file)
    features, labels = tensors["features"], tensors["labels"].long()
    head = torch.nn.Linear(features.shape[1], int(labels.max()) + 1)
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.01)
    ema = average(head)

    def step(x, y):
        loss = cross_entropy(head(x), y)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        ema.update_parameters(head)
        return loss.item()

    def indexed():
        order = torch.randperm(len(features))
        for rows in order.split(int(batch)):
            yield features[rows], labels[rows]

    loader = DataLoader(TensorDataset(features, labels), batch_size=int(batch), shuffle=True)
    seconds = []
    for _ in range(int(epochs)):
        start = time.perf_counter()
        batches = loader if reading == "loader" else indexed()
        losses = [step(x, y) for x, y in batches]
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "loss": sum(losses) / len(losses), "peak_memory_kb": peak_memory()}))


class Files(Dataset):
    """Image files, decoded by Pillow and brought to the model's size as the trainer's `arithmetic: pillow` does."""

    def __init__(self, folder):
        folder = Path(folder)
        self.task = json.loads((folder / "task.json").read_text())
        self.paths = sorted((folder / "images").rglob("train-*.jpg"))
        names = sorted({path.parent.name for path in self.paths})
        self.labels = [names.index(path.parent.name) for path in self.paths]
        self.side = self.task["side"]
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        import numpy as np
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            image = image.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std, self.labels[index]


def backbone(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(Path(folder) / "backbone", attn_implementation="sdpa")


def pooled(tokens):
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)


def tell_step():
    print(json.dumps({"event": "step"}), flush=True)


def features(folder, threads):
    torch.set_num_threads(int(threads))
    files, model = Files(folder), backbone(folder).eval()
    with torch.inference_mode():
        for pixels, _ in DataLoader(files, files.task["feature_batch"], num_workers=WORKERS):
            pooled(model(pixels).last_hidden_state)
            tell_step()


def lora(folder, threads):
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    files, model = Files(folder), backbone(folder)
    rank = files.task["r"]
    # The names of transformers 5; ours are those of its version 4, for the same layers.
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"]))
    head = torch.nn.Linear(2 * model.config.hidden_size, 2)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": adapters, "lr": 1e-4, "weight_decay": 0.0}, {"params": head.parameters(), "lr": 3e-3}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    trained = torch.nn.ParameterList([*adapters, *head.parameters()])
    ema = average(trained)
    model.train()
    for pixels, labels in DataLoader(files, files.task["batch"], shuffle=True, num_workers=WORKERS):
        loss = cross_entropy(head(pooled(model(pixels).last_hidden_state)), labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        ema.update_parameters(trained)
        loss.item()
        tell_step()


def peak_memory():
    """In KiB. Not `ru_maxrss`, which begins with what the starting process had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    {"probe": probe, "features": features, "lora": lora}[task](*arguments)
