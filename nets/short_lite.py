"""EfficientNet-Lite0 with one block of every kind: a network of one's own that starts from another's weights.

    distill.student: nets.short_lite:make

The blocks left out are those that add to what they are given, so the layers that stay fit together as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from webdistill.models.families.timm_nets import split_timm
from webdistill.models.families.wrapped import Wrapped

import timm  # isort: skip  (after webdistill, which lets torchvision import)

WHOLE = "tf_efficientnet_lite0"


def make(num_classes: int) -> nn.Module:
    """The first of the 1 to 4 blocks of every stage; split like timm's networks, so that `simkd` sees its last maps."""
    net = timm.create_model(WHOLE, num_classes=num_classes)
    net.blocks = nn.Sequential(*(nn.Sequential(stage[0]) for stage in net.blocks))
    tensors = net.state_dict(keep_vars=True)
    split = split_timm(net.eval(), (224,), "the short Lite0")
    assert split is not None
    return Wrapped(split, tensors).train()


def shortened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the whole network that this one has: blocks.STAGE.0."""
    kept = (k for k in tensors if not k.startswith("blocks.") or k.split(".")[2] == "0")
    return {name: tensors[name] for name in kept}
