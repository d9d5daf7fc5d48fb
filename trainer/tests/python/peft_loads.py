"""Loads an adapter with Hugging Face PEFT, strictly, and writes what the adapted and the merged model compute.

usage: peft_loads.py BASE ADAPTER INPUTS OUTPUTS
INPUTS holds `pixel_values`; OUTPUTS gets `adapted` and `merged` (`pooler_output` each).
"""

import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel

base, adapter, inputs, outputs = sys.argv[1:]
# Missing or unexpected keys are warnings in PEFT.
warnings.filterwarnings("error", message="(?i).*(missing|unexpected|not found).*")
torch.manual_seed(0)
model = AutoModel.from_pretrained(base).eval()
adapted = PeftModel.from_pretrained(model, adapter).eval()
saved = load_file(f"{adapter}/adapter_model.safetensors")
named = {name for name, _ in adapted.named_parameters() if "lora_" in name}
assert len(named) == len(saved), f"{len(saved)} tensors saved, {len(named)} injected"
pixels = load_file(inputs)["pixel_values"]
with torch.no_grad():
    before = adapted(pixels).pooler_output
    after = adapted.merge_and_unload()(pixels).pooler_output
save_file({"adapted": before.contiguous(), "merged": after.contiguous()}, outputs)
