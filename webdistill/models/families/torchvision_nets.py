"""Classification networks of torchvision, unchanged; without weights, but where `pretrained` is asked for them.

Known families are split where their last maps end. The others (vision transformers, Swin, MaxViT, GoogLeNet,
Inception, SqueezeNet) go through `wrap`: their pooled features count as maps of one position.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision import models

from webdistill.core.errors import UserError
from webdistill.models.classifier import Classifier, GlobalAverage, average_to
from webdistill.models.families.wrapped import SIDES, Split, Wrapped, nearest, probe, wrap

# GoogLeNet and Inception: no second outputs, which only help training, and not their own initialisation, which is slow.
WITHOUT_AUX = {"aux_logits": False, "init_weights": False}
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")  # in the files of DenseNets
AUX = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def from_torchvision(name: str, num_classes: int, image_size: int | None) -> Classifier:
    """The network `torchvision.models.NAME`. Raises UserError for an unknown name."""
    _check_known(name)
    options = WITHOUT_AUX if name in AUX else {}
    net = models.get_model(name, weights=None, num_classes=num_classes, **options)
    tensors = net.state_dict(keep_vars=True)
    sides, what = SIDES if image_size is None else (image_size,), f"torchvision:{name}"
    split = split_torchvision(net)
    if split is not None:
        whole = Wrapped(split, tensors)
        if image_size is not None:
            probe(whole.eval(), sides, what)
        return whole.train()
    wrapped = wrap(net, num_classes, sides, what)
    wrapped.library_extras = AUX.get(name, ())
    return wrapped


def _check_known(name: str) -> None:
    known = models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"torchvision has no classification network '{name}'{nearest(name, known)}")


def pretrained(name: str) -> dict[str, Tensor]:
    """torchvision's default weights of a network, under its names: from its cache, else from the web.

    Raises UserError when there are none or the web does not give them.
    """
    _check_known(name)
    weights: Any = models.get_model_weights(name)
    if not len(weights):
        raise UserError(f"torchvision has no weights for '{name}'")
    chosen = weights.DEFAULT
    try:
        found = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no web, a wrong hash, more than tensors in the file
        raise UserError(
            f"the weights of torchvision:{name} cannot be loaded ({str(error).splitlines()[0]}); without the web get "
            f"{chosen.url} elsewhere, name the file"
        ) from None
    return {_OLD_NAME.sub(r"\1\2", key): tensor for key, tensor in found.items()}


class AverageTo(nn.Module):
    """Maps [B, C, h, w] -> [B, C side side]: what the linear layers of VGG and AlexNet read."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        return average_to(maps, self.side).flatten(1)


def split_torchvision(net: Any) -> Split | None:
    """None for families whose maps cannot be reached from outside."""
    match net:
        case models.ResNet() | models.RegNet() | models.ShuffleNetV2():
            body = nn.Sequential(
                OrderedDict((n, m) for n, m in net.named_children() if n not in ("avgpool", "fc"))
            )
            return Split(body, GlobalAverage(), nn.Identity(), net.fc, net.fc.in_features)
        case models.DenseNet():
            body = nn.Sequential(OrderedDict(features=net.features, relu=nn.ReLU()))
            fc = net.classifier
            return Split(body, GlobalAverage(), nn.Identity(), fc, fc.in_features)
        case models.MNASNet():
            return _with_classifier(net.layers, net.classifier)
        case models.MobileNetV2() | models.MobileNetV3() | models.EfficientNet():
            return _with_classifier(net.features, net.classifier)
        case models.ConvNeXt():  # LayerNorm2d, Flatten, Linear
            norm, flatten, fc = list[Any](net.classifier)
            neck = nn.Sequential(nn.Unflatten(1, (fc.in_features, 1, 1)), norm, flatten)
            return Split(net.features, GlobalAverage(), neck, fc, fc.in_features)
        case models.VGG() | models.AlexNet():
            side = net.avgpool.output_size[0]
            *neck, fc = net.classifier
            channels = next(m for m in neck if isinstance(m, nn.Linear)).in_features // side**2
            return Split(net.features, AverageTo(side), nn.Sequential(*neck), fc, channels)
    return None


def _with_classifier(body: nn.Module, classifier: nn.Sequential) -> Split:
    """Global average, then a Sequential that ends in the last linear layer."""
    *neck, fc = list[Any](classifier)
    first = next(m for m in classifier if isinstance(m, nn.Linear))
    return Split(body, GlobalAverage(), nn.Sequential(*neck), fc, first.in_features)
