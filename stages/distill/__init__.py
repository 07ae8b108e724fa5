"""Train a small student to answer as the teacher does, on views of the selected images.

Reads data/select/selection.parquet and data/fetch/pool, writes data/distill/student/ and curve.csv.
Killed runs continue at the last finished epoch; on a CPU the result is the same, bit for bit.
"""
