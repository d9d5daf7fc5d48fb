"""Saves a backbone as transformers 5 has it in memory.

usage: resave.py FOLDER OUT
"""

import sys

from transformers import AutoModel

folder, out = sys.argv[1:]
AutoModel.from_pretrained(folder).save_pretrained(out, save_original_format=False)
