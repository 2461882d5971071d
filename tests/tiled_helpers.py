"""Tiled models that are run."""

import io
import json

from flawscope.runtime import onnx_file


def rewritten(source, path, change):
    """An .onnx model whose entries are changed and whose hashes are right."""
    data, file = source.read_bytes(), io.BytesIO()
    entries = onnx_file.parse_entries(data)
    change(entries)
    entries[onnx_file.METADATA_SHA256] = onnx_file.metadata_hash(entries)
    onnx_file.write_entries(file, onnx_file.without_metadata(data), entries)
    path.write_bytes(file.getvalue())
    return path


def manifest(**changes):
    """None removes an entry; those of the preprocessing and the fusion are found by their names."""

    def change(entries):
        data = json.loads(entries["flawscope"])
        for key, value in changes.items():
            where = next((d for d in (data["preprocess"], data["fusion"]) if key in d), data)
            if value is None:
                del where[key]
            else:
                where[key] = value
        entries["flawscope"] = json.dumps(data)

    return change
