"""The upper part of a network that has been traced."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn


def upper_part(network: nn.Module, below: str | int, last: str | int) -> nn.Module:
    """What computes the output ``last`` from the output ``below``: a copy, as a network of its own, in eval mode.

    Args:
        network: With a graph whose outputs have names, such as ``create_feature_extractor`` makes; in eval mode.
        below: Name of the output to go on from.
        last: Name of the output to give.

    Raises:
        ValueError: ``last`` needs more of the image than ``below``.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    nodes = list(network.graph.nodes)  # type: ignore[union-attr,arg-type]
    outputs: Any = next(node for node in nodes if node.op == "output").args[0]
    copied[outputs[below]] = graph.placeholder("maps")
    needed = _needed(outputs[last], outputs[below])
    for node in nodes[nodes.index(outputs[below]) + 1 :]:
        if node in needed:
            copied[node] = graph.node_copy(node, lambda n: _known(copied, n, below))
    graph.output(copied[outputs[last]])
    return copy.deepcopy(fx.GraphModule(network, graph)).eval()


def _needed(last: fx.Node, below: fx.Node) -> set[fx.Node]:
    """The nodes that ``last`` is computed from, itself included, down to ``below``."""
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
            f"stride: expected a map that all that follows is computed from, found {below!r} without {node}"
        )
    return copied[node]
