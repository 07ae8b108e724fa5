"""Where shards are computed: here, on a Ray cluster, or as one rank of an array job. It decides no byte."""
