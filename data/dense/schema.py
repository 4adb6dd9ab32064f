"""The columns of a captioned shard, and their version.

Every shard has all columns in this order and with these types, including columns of nulls: a column
whose type differs between shards breaks readers and the Hub's viewer.
"""

import pyarrow as pa

SCHEMA_VERSION = 2
# Appended in runs with samples or with answers to a schema.
MORE_COLUMNS = ("text_name", "sample", "answer")

CAPTION_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string()),
        # Relative to the images folder, with "/" between its parts.
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        # Pixels, after the EXIF orientation was applied.
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("image_sha256", pa.string()),
        pa.field("image_url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("caption_tokens", pa.int32()),
        pa.field("caption_words", pa.int32()),
        pa.field("flags", pa.list_(pa.string())),
        # Share of repeated 4-grams, in [0, 1).
        pa.field("repetition", pa.float32()),
        pa.field("seed", pa.int64()),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        # Human captions of the image, if the source has them.
        pa.field("captions", pa.list_(pa.string())),
        # Number of the generation: 1, or 2 if a flagged text was generated again.
        pa.field("attempt", pa.int32()),
        # Whether something was cut off: reasoning, or an incomplete last sentence.
        pa.field("trimmed", pa.bool_()),
    ]
)
