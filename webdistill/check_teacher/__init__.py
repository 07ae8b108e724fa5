"""python -m webdistill check-teacher: will this teacher work with this task? A few seconds, before any stage runs."""
