"""Tracing of networks while other threads run networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock, get_ident
from typing import Any

from torch import fx, nn
from torchvision.models import feature_extraction

#: One network is traced at a time: each trace puts back the functions of modules that it has found.
_TRACING = RLock()


class OwnThread(fx.Tracer):
    """A tracer that records what its own thread calls.

    While a network is traced, PyTorch replaces functions of all modules, so that a network that another thread runs
    meanwhile, as in a service, would be recorded as well, and fail.
    """

    _thread: int

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of a network."""
        with _TRACING:
            self._thread = get_ident()
            return super().trace(root, concrete_args)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record the call of a module, or run it for another thread."""
        if get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter as a node of the graph, or as it is for another thread."""
        if get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _WithNames(OwnThread, feature_extraction.NodePathTracer):  # type: ignore[misc]  # torchvision has no types
    """That of torchvision, which remembers the names of layers."""


def with_outputs(
    network: nn.Module, names: Sequence[str], leaf_modules: Sequence[type[nn.Module]] = ()
) -> fx.GraphModule:
    """A traced network with outputs of layers, which it shares; as torchvision's ``create_feature_extractor``.

    Args:
        network: The network.
        names: Names of the layers; outputs have them as keys.
        leaf_modules: Types of modules that the graph has whole.

    Raises:
        ValueError: There is no such layer.
    """
    with _TRACING:
        before = feature_extraction.NodePathTracer
        feature_extraction.NodePathTracer = _WithNames  # it cannot be told which tracer to take
        try:
            traced: fx.GraphModule = feature_extraction.create_feature_extractor(
                network, list(names), tracer_kwargs={"leaf_modules": list(leaf_modules)}, suppress_diff_warning=True
            )
            return traced
        finally:
            feature_extraction.NodePathTracer = before
