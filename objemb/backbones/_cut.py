"""Cutting parts out of a traced network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import fx, nn


def upper_part(network: fx.GraphModule, below: str | int, last: str | int) -> nn.Module:
    """The layers that compute the output ``last`` from the output ``below``: a copy, as a separate network in eval
    mode.

    Args:
        network: A traced network with named outputs, such as one of ``create_feature_extractor``; in eval mode.
        below: Name of the output that is the input of the part.
        last: Name of the output of the part.

    Raises:
        ValueError: ``last`` needs more of the image than ``below``.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    nodes = list(network.graph.nodes)
    outputs: Any = next(node for node in nodes if node.op == "output").args[0]
    copied[outputs[below]] = graph.placeholder("maps")
    needed = _needed(outputs[last], outputs[below])
    for node in nodes[nodes.index(outputs[below]) + 1 :]:
        if node in needed:
            copied[node] = graph.node_copy(node, lambda n: _known(copied, n, below))
    graph.output(copied[outputs[last]])
    return copy.deepcopy(fx.GraphModule(network, graph)).eval()


def lower_part(network: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """Only the layers that compute some outputs, shared with ``network``.

    Args:
        network: As for :func:`upper_part`.
        names: Names of the outputs, in the order of the tuple that the part returns.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    outputs: Any = next(node for node in network.graph.nodes if node.op == "output").args[0]
    needed = set[fx.Node]().union(*(_needed(outputs[name], None) for name in names))
    for node in network.graph.nodes:
        if node in needed:
            copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[outputs[name]] for name in names))
    return fx.GraphModule(network, graph).eval()


def _needed(last: fx.Node, below: fx.Node | None) -> set[fx.Node]:
    """The nodes that ``last`` is computed from, itself included, down to ``below`` or to the image."""
    needed, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node not in needed and node is not below:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _known(copied: dict[fx.Node, fx.Node], node: fx.Node, below: str | int) -> fx.Node:
    if node not in copied:
        raise ValueError(
            f"stride: expected a map from which all later layers are computed, found {below!r}, which lacks {node}"
        )
    return copied[node]
