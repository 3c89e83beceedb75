"""Initial weights as other frameworks and times drew them."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
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
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def initialize_normal(network: nn.Module, weight_std: float, scale_std: float) -> None:
    """Draw all weights again as DCGAN does, in place: N(0, weight_std²), batch norm scale N(1, scale_std²), shifts 0.

    Args:
        network: the module whose convolutions and batch norms are initialised, nested ones included.
        weight_std: standard deviation of the convolutions' weights.
        scale_std: standard deviation of the batch norms' scales.
    """
    for layer in network.modules():
        if isinstance(layer, _ConvNd):
            nn.init.normal_(layer.weight, 0.0, weight_std)
        elif isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.normal_(layer.weight, 1.0, scale_std)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def initialize_lecun_normal(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers again as Chainer does by default, in place; biases are 0.

    N(0, 1 / fan_in) where fan_in is the second size of the weight times its kernel elements; for transposed
    convolutions that second size is the number of output channels.

    Args:
        network: the module whose layers are initialised, nested ones included.
    """
    _initialize_weights(network, lambda weight: nn.init.normal_(weight, 0.0, weight[0].numel() ** -0.5))


def initialize_uniform(network: nn.Module, scale: float) -> None:
    """Draw the weights of convolutions and linear layers again from U(-scale, scale), in place; their biases are 0.

    Args:
        network: the module whose layers are initialised, nested ones included.
        scale: the largest magnitude.
    """
    _initialize_weights(network, lambda weight: nn.init.uniform_(weight, -scale, scale))


def _initialize_weights(network: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    for layer in network.modules():
        if isinstance(layer, _ConvNd | nn.Linear):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _uniform(layer: nn.Module, fan: int) -> None:
    bound = 1 / math.sqrt(fan)
    for parameter in layer.parameters(recurse=False):
        nn.init.uniform_(parameter, -bound, bound)
