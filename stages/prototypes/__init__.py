"""Confounder dictionary (KDCI): PCA and k-means++ over the teacher's view of selected images.

Reads data/select/selection.parquet and data/score/teacher; writes prototypes.safetensors (a
prototype and a prior per cluster), assignment.parquet (which image belongs to which prototype) and
clusters.csv (how large, wide and mixed each cluster is).
"""
