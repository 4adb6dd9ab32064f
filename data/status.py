"""What became of one planned image. Apart from the schema, so that decoding needs no Parquet."""

from enum import StrEnum


class Status(StrEnum):
    """The `status` column."""

    OK = "ok"
    DECODE_ERROR = "decode_error"
    TOO_LARGE = "too_large"
    ENGINE_ERROR = "engine_error"
