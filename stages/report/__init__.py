"""One page (where the images went, what they look like, how good the student is), a model card, the pool as Croissant.

Reads the outputs of all stages and `experiments/`; writes data/report/report.html, card.md and croissant.json.
"""
