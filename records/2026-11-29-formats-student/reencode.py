"""Stores the pictures of a pool anew: python reencode.py POOL jpeg92|webp95"""

import hashlib
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FORMATS = {
    "webp95": ("WEBP", {"quality": 95, "method": 0}),
    "jpeg92": ("JPEG", {"quality": 92, "subsampling": 0}),
}

pool, (kind, options) = Path(sys.argv[1]), FORMATS[sys.argv[2]]
manifest = {}
for file in sorted(pool.glob("*.parquet")):
    table = pq.read_table(file)
    place = table.schema.get_field_index("image")
    stored = []
    for picture in table["image"].to_pylist():
        encoded = io.BytesIO()
        Image.open(io.BytesIO(picture["bytes"])).convert("RGB").save(encoded, kind, **options)
        stored.append({"bytes": encoded.getvalue(), "path": picture["path"]})
    field = table.schema.field("image")
    pq.write_table(table.set_column(place, field, pa.array(stored, type=field.type)), file)
    data = file.read_bytes()
    manifest[file.name] = {
        "bytes": len(data),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
(pool / "manifest.json").write_text(json.dumps(manifest, indent=2))
