"""One file a family of networks. A stage depends on the families of its teacher and student alone."""
