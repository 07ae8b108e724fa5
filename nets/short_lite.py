"""EfficientNet-Lite with one block of every kind: networks of one's own that start from another's weights.

    distill.student: nets.short_lite:make     from Lite0
    distill.student: nets.short_lite:lite2    from Lite2, with a third of its multiply-adds

The blocks left out are those that add to what they are given, so the layers that stay fit together as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from webdistill.models.families.timm_nets import split_timm
from webdistill.models.families.wrapped import Wrapped

import timm  # isort: skip  (after webdistill, which lets torchvision import)

WHOLE, WHOLE2 = "tf_efficientnet_lite0", "tf_efficientnet_lite2"


def make(num_classes: int) -> nn.Module:
    """Of Lite0 the first of the 1 to 4 blocks of every stage."""
    return _short(WHOLE, num_classes)


def lite2(num_classes: int) -> nn.Module:
    """Of Lite2 the first of the 1 to 5 blocks of every stage."""
    return _short(WHOLE2, num_classes)


def shortened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole network that its short form has: blocks.STAGE.0."""
    kept = (k for k in tensors if not k.startswith("blocks.") or k.split(".")[2] == "0")
    return {name: tensors[name] for name in kept}


def _short(whole: str, num_classes: int) -> nn.Module:
    """Split like timm's networks, so that `simkd` sees its last maps."""
    net = timm.create_model(whole, num_classes=num_classes)
    net.blocks = nn.Sequential(*(nn.Sequential(stage[0]) for stage in net.blocks))
    tensors = net.state_dict(keep_vars=True)
    split = split_timm(net.eval(), (224,), f"the short {whole}")
    assert split is not None
    return Wrapped(split, tensors).train()
