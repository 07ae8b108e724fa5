"""Embed every pool image with CLIP and score it against the class names. No thresholds: those live in filter.

Reads data/fetch/pool; writes data/embed/embeddings and data/embed/scores.parquet. Resumes after the last shard.
"""
