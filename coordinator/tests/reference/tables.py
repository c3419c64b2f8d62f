"""Writes the tables beside it, of Hugging Face datasets 5.2 written by pyarrow 26: python tables.py

The JSON lines hold the same rows.
"""
import json
import pathlib

import pyarrow.parquet
from datasets import Dataset

HERE = pathlib.Path(__file__).parent
COMPRESSION = {"preferences": "snappy", "messages": "zstd"}
TABLES = {
    "preferences": [
        {"prompt": "Tea?", "response_0": "No.", "response_1": "Yes.", "better_response_id": 1, "is_response_0_safe": True},
        {"prompt": "Café?", "response_0": "Oui.", "response_1": "Non.", "better_response_id": 0, "is_response_0_safe": False},
    ],
    "messages": [
        {"id": i, "messages": [{"role": "user", "content": asked, "weight": None}, {"role": "assistant", "content": said, "weight": w}]}
        for i, (asked, said, w) in enumerate([("Hi", "Hello!", None), ("Tea?", "Yes,\nplease.", 1)])
    ],
}
for name, rows in TABLES.items():
    table = Dataset.from_list(rows).data.table
    pyarrow.parquet.write_table(table, HERE / f"{name}.parquet", compression=COMPRESSION[name])
    (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
