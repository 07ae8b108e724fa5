"""One self-contained page and a model card: where the images went, what they look like, how good the student is."""
