"""The teacher's logits and features of one fixed view of every image in the pool, no thresholds.

Reads data/fetch/pool and task.teacher; writes data/score/teacher, one shard per shard of the pool.
A killed run continues with the first shard that was not finished.
"""
