"""Image files in memory, and tables of them."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(color, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def shard(path, blobs, paths=None, column="img", names=None, row_group_size=None, **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": blob, "path": paths[i] if paths else None} for i, blob in enumerate(blobs)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(rows, kind), **others})
    if names:
        hub = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(hub).encode()})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path
