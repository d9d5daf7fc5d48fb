"""Reads the records of `stage1 predict` with Arrow: Parquet says what JSON lines say.

usage: check_predictions.py RECORDS.parquet RECORDS.jsonl
"""

import json
import sys

import numpy as np
import pyarrow.parquet as parquet

table, lines = sys.argv[1:]
with open(lines) as file:
    want = [json.loads(line) for line in file]
file = parquet.ParquetFile(table)
made = json.loads(file.metadata.metadata[b"stage1"])
assert made["variant"] == "fp32" and len(made["labels"]) == 3, made
rows = file.read().to_pylist()
assert len(rows) == len(want) >= 4, (len(rows), len(want))
for row, record in zip(rows, want):
    for key in ("path", "decision", "label", "probability", "certified", "reason", "error", "gate"):
        assert row[key] == record.get(key), f"{key}: {row} is not {record}"
    # JSON has as many digits as tell float32 numbers apart.
    logits = record.get("logits")
    assert (row["logits"] is None) == (logits is None), f"logits: {row} is not {record}"
    assert np.array_equal(np.float32(row["logits"] or []), np.float32(logits or [])), f"logits: {row} is not {record}"
assert {row["decision"] for row in rows} >= {"answer", "error"}, rows
