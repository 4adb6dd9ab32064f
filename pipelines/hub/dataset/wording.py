"""What the columns and the flags of a run mean, for those who only see the data set."""

# By the names of data.dense.schema.CAPTION_SCHEMA, and in its order.
COLUMNS = {
    "sample_id": "hash of the image's name in its source; the same in every run",
    "image_id": "the source's own id, where it has one",
    "file_name": "name of the image within its source",
    "split": "the source's own split, where it has one",
    "width": "pixels, after the EXIF orientation was applied",
    "height": "pixels, after the EXIF orientation was applied",
    "image_sha256": "SHA-256 of the image's file",
    "image_url": "address of the image, where the source has one",
    "caption": "the text; null where there is an error",
    "status": "ok, or the kind of error",
    "error": "what was wrong",
    "finish_reason": "stop, or length where the text was cut at the limit",
    "prompt_tokens": "tokens of prompt and image",
    "caption_tokens": "tokens of the text",
    "caption_words": "words of the text",
    "flags": "what to look at in the text; nothing was dropped for it",
    "repetition": "share of 4-grams of words that were said before in the text",
    "seed": "seed of the sampling of this row",
    "run_id": "the run: the same settings on the same images have the same",
    "engine": "what ran the model",
    "captions": "what people wrote about the image, where the source has it",
    "attempt": "2 where a flagged text was asked for again",
    "trimmed": "whether a text was cut back to its last full sentence",
}
# By the names of captioner.text.quality.FLAGS.
FLAGS = {
    "empty": "no words at all",
    "short": "fewer words than a dense text has",
    "truncated": "stopped at the limit of tokens, or not at the end of a sentence",
    "loop": "says the same again and again",
    "refusal": "the model says that it cannot do it",
    "non_english": "in another language than English",
    "duplicate": "the same text as that of another image",
}
