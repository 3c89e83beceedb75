"""Initial weights as other frameworks and times drew them."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Recurrent = (nn.RNNBase, nn.RNNCellBase)


def initialize_torch_0_2(network: nn.Module) -> None:
    """Draw all weights again as PyTorch 0.2 did by default, in place.

    Convolutions U(±1/sqrt(in_channels · kernel elements)), for transposed ones too (today's default takes their output
    channels); batch norm scale U(0, 1) (today 1) and shift 0; recurrent cells U(±1/sqrt(hidden size)); linear layers
    U(±1/sqrt(inputs)). Running statistics are reset.

    Args:
        network: the module whose layers are initialised, nested ones included.
    """
    for layer in network.modules():
        if isinstance(layer, _ConvNd):
            _uniform(layer, layer.in_channels * math.prod(layer.kernel_size))
        elif isinstance(layer, nn.Linear):
            _uniform(layer, layer.in_features)
        elif isinstance(layer, Recurrent):
            _uniform(layer, layer.hidden_size)
        elif isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
            if layer.affine:
                nn.init.uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


def _uniform(layer: nn.Module, fan: int) -> None:
    bound = 1 / math.sqrt(fan)
    for parameter in layer.parameters(recurse=False):
        nn.init.uniform_(parameter, -bound, bound)
