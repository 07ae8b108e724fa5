"""Keep or drop each pool image, with the reason: opt-out, size, blank, test-set leak, CLIP score, duplicates.

Reads data/fetch, data/embed/scores.parquet and the test images; writes data/filter/kept.parquet and dropped.parquet.
Takes seconds and touches no network: sweep its thresholds freely.
"""
