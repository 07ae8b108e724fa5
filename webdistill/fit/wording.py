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
    "success": "candidates that came",
}
MEANING = {
    "confidence": (
        "mean of its largest probability; low where images are foreign to it, high for confident mistakes, too"
    ),
    "sure": "share of images with a largest probability above 0.9",
    "entropy": (
        "mean in nats; 0 = always certain, log of the number of classes = knows nothing; softer answers say more about "
        "classes that resemble each other"
    ),
    "covered": "classes that are the teacher's answer to at least one image of the sample",
    "effective_classes": (
        "exp of the entropy of the classes' shares: all equal = their number, one class has everything = 1"
    ),
    "shift": (
        "distance to the means that its BatchNorm layers remember of the training images, in standard deviations, mean "
        "over channels and layers"
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
        "by how much the nearest image comes closer among twice as many; the smaller, the more images of the same kind "
        "would still bring what is not there yet"
    ),
    "licensed": "as their sources state it, no proof that it is true",
    "success": "share of candidates that became an image",
}
CLOSE = (
    "None of this is an accuracy: what a student learns from the images only training tells. Over fourteen pools the "
    "activations' distances went with accuracy best (rank correlation -0.67 to -0.74), most of it between related and "
    "foreign pools; classes and saturation hardly did (records/2026-11-25-fit)."
)
