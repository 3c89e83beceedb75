"""Official state dicts under our names, and models filled with them; problems are told with the official names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vidgen.errors import UserError

Model = TypeVar("Model", bound=nn.Module)

_log = logging.getLogger(__name__)


@contextmanager
def problems_of(path: Path) -> Iterator[None]:
    """Put the name of a file before the message of a :class:`UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def translate_key(key: str, table: Mapping[str, str], prefix: str = "") -> str:
    """Our name of an official state-dict entry; ``prefix`` names the network in messages.

    Raises:
        UserError: the official module has no such entry.
    """
    module, _, entry = key.rpartition(".")
    if module not in table:
        raise UserError(f"has {prefix}{key}, which is not part of the official module")
    return f"{table[module]}.{entry}"


def translate(state: Mapping[str, Tensor], table: Mapping[str, str], prefix: str = "") -> dict[str, Tensor]:
    """An official state dict under our names; ``prefix`` names the network in messages.

    Raises:
        UserError: an entry is not part of the official module.
    """
    return {translate_key(key, table, prefix): value for key, value in state.items()}


def official_key(key: str, table: Mapping[str, str], prefix: str = "") -> str:
    """The official name of an entry that is called ``key`` here: the inverse of :func:`translate_key`."""
    module, _, entry = key.rpartition(".")
    return f"{prefix}{next(theirs for theirs, ours in table.items() if ours == module)}.{entry}"


def as_stored(value: Tensor, name: str) -> Tensor:
    """A tensor of a file, plain, unless it is a small one that claims to be large by repeating itself.

    Raises:
        UserError: it has more elements than its storage; the message calls it ``name``.
    """
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(f"{name} has more elements than the file holds")
    return value.as_subclass(Tensor)


def split_networks(content: Mapping[Any, Any], networks: Mapping[str, str], alone: str) -> dict[str, dict[str, Tensor]]:
    """The networks of a state dict whose keys begin with the network they belong to.

    Args:
        content: the state dict.
        networks: prefix -> name of the network, for example ``netD.``.
        alone: the network that it holds when no key has a prefix.

    Raises:
        UserError: an entry is no tensor, or belongs to none of the networks.
    """
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"entry {key!r} is not a tensor; a state dict with official names was expected")
    states: dict[str, dict[str, Tensor]] = {}
    prefixed = any(key.startswith(tuple(networks)) for key in content)
    for key, value in content.items():
        prefix = next((prefix for prefix in networks if prefixed and key.startswith(prefix)), "")
        if prefixed and not prefix:
            raise UserError(f"has {key}, which belongs to none of {', '.join(networks.values())}")
        name = networks[prefix] if prefixed else alone
        states.setdefault(name, {})[key.removeprefix(prefix)] = as_stored(value, key)
    return states


def shape_of(state: Mapping[str, Tensor], key: str, dimensions: int, prefix: str = "") -> tuple[int, ...]:
    """The shape of an entry from which sizes of the model are taken; ``prefix`` names the network in messages.

    Raises:
        UserError: it is missing, or has another number of dimensions.
    """
    if key not in state:
        raise UserError(f"lacks {prefix}{key}")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise UserError(f"{prefix}{key} is {shape}, expected {dimensions} dimensions")
    return shape


def check(network: nn.Module, given: Mapping[str, Tensor], official: Callable[[str], str]) -> None:
    """Check that entries are exactly those of a network; a count of batches (``num_batches_tracked``) may be missing.

    Args:
        network: the network, with or without storage.
        given: the entries, under our names.
        official: the official name of an entry.

    Raises:
        UserError: one is missing, not part of the network, or of another shape or kind.
    """
    expected = network.state_dict()
    for key in [*expected, *given]:
        if key not in given:
            if not key.endswith(".num_batches_tracked"):
                raise UserError(f"lacks {official(key)}")
        elif key not in expected:
            raise UserError(f"has {official(key)}, which is not part of the official module")
        elif given[key].shape != expected[key].shape:
            found, right = tuple(given[key].shape), tuple(expected[key].shape)
            raise UserError(f"{official(key)} is {found}, expected {right}")
        elif given[key].is_floating_point() != expected[key].is_floating_point():
            raise UserError(f"{official(key)} is {given[key].dtype}, expected {expected[key].dtype}")


@dataclass
class Given:
    """Weights of one network.

    Attributes:
        entries: its state dict, under our names.
        official: the official name of an entry, for messages.
        file: where they come from.
    """

    entries: Mapping[str, Tensor]
    official: Callable[[str], str]
    file: Path


def build(make: Callable[[], Model], networks: Mapping[str, Given]) -> Model:
    """A model in eval mode with the given weights; networks that are not given keep new, untrained ones.

    It is first built without storage and compared, so that a file cannot ask for a model that is larger than itself.

    Args:
        make: builds the model.
        networks: by path in the model; the first one is from the file to name where the sizes fit no model.

    Raises:
        UserError: the entries are not those of the network.
    """
    with torch.device("meta"), problems_of(next(iter(networks.values())).file):
        skeleton = make()
    for name, given in networks.items():
        with problems_of(given.file):
            check(attrgetter(name)(skeleton), given.entries, given.official)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    for name, _ in model.named_children():
        if not any(given == name or given.startswith(f"{name}.") for given in networks):
            _log.warning("%s: comes without %s, which starts untrained", next(iter(networks.values())).file, name)
    for name, given in networks.items():
        network = attrgetter(name)(model)
        network.load_state_dict({**network.state_dict(), **given.entries})
    return model.eval()
