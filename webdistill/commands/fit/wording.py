"""What each signal is called and means, in one sentence."""

from __future__ import annotations

ABOUT = {
    "confidence": "teacher's confidence",
    "sure": "images it is sure of",
    "entropy": "entropy of its answers",
    "covered": "classes it sees",
    "effective_classes": "effective classes",
    "shift": "activations: means",
    "log_ratio": "activations: variances",
    "divergence": "activations: both",
    "clip_agreement": "CLIP agrees with it",
    "duplicates": "near-duplicates",
    "novelty": "distance to the nearest",
    "gain": "saturation",
    "licensed": "images with a licence",
    "success": "candidates downloaded",
}
MEANING = {
    "confidence": (
        "mean of its largest probability; low for images unlike its training data, high also for confident mistakes"
    ),
    "sure": "share of images with a largest probability above 0.9",
    "entropy": (
        "mean in nats; 0 = always certain, log of the number of classes = no preference; softer predictions tell more "
        "about similar classes"
    ),
    "covered": "classes that the teacher predicts for at least one image of the sample",
    "effective_classes": (
        "exp of the entropy of the classes' shares; equal shares = their number, a single class = 1"
    ),
    "shift": (
        "distance to the running means of its BatchNorm layers, which are those of the training images, in standard "
        "deviations; mean over channels and layers"
    ),
    "log_ratio": "|log| of the ratio of variances, likewise; 0.69 = twice or half",
    "divergence": (
        "symmetric KL divergence of normal distributions, likewise; channels that were nearly constant in training "
        "weigh most"
    ),
    "clip_agreement": (
        "share of images that CLIP's zero-shot classifier and the teacher put into the same class; both can be wrong"
    ),
    "duplicates": "share of the sample that shows the same picture as another image of it",
    "novelty": (
        "1 - cosine of the teacher's features to the nearest of the other images; 0 = all alike. It falls with the "
        "number of images: compare pools at the same --images"
    ),
    "gain": (
        "decrease of the distance to the nearest image if there are twice as many; the smaller, the more new content "
        "further images of the same kind would bring"
    ),
    "licensed": "as their sources state it; not verified",
    "success": "share of candidates that became an image",
}
CLOSE = (
    "None of this is an accuracy: only training shows what a student learns from the images. Over fourteen pools the "
    "distances of activations correlated best with accuracy (rank correlation -0.67 to -0.74), mostly between related "
    "and foreign pools; classes and saturation hardly correlated (records/2026-11-25-fit)."
)
