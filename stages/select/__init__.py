"""Choose the training images under the teacher's guidance: by balanced confidence or a control.

Reads data/score/teacher, data/filter and data/embed/scores.parquet; writes
data/select/selection.parquet. Takes seconds: sweep its parameters freely.
"""
