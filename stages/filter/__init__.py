"""Keep or drop each pool image, with the reason: takedown, opt-out, test-set leak, licence, quality, duplicates.

Reads data/fetch, data/embed, takedown.txt and the test images; writes data/filter/kept.parquet and dropped.parquet.
Touches no network, and takes seconds for ten thousand images: sweep its thresholds freely.
"""
