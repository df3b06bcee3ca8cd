"""Batch norms folded into the convolutions before them, when no gradients are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Lock
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, map_arg
from torchvision.models import mobilenetv2, mobilenetv3, resnet
from torchvision.ops import FrozenBatchNorm2d

from objemb.layers.tracing import OwnThread

#: Blocks with several layers, which a graph may have whole.
BLOCKS = (resnet.BasicBlock, resnet.Bottleneck, mobilenetv2.InvertedResidual, mobilenetv3.InvertedResidual)
#: The second has the tensors of the first and no mode; where a type is called for, the first stands for both.
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
#: Tolerance for rounding differences from PyTorch's own convolution, for values around 1.
TOLERANCE = 1e-4

_BUILDING = Lock()
_WANTED: ContextVar[bool] = ContextVar("objemb_folded", default=True)

Convolve = Callable[[Tensor, Tensor, Tensor, list[int], list[int], list[int], int], Tensor]


@contextmanager
def unfolded() -> Iterator[None]:
    """Inside the block, networks run unfolded, for comparisons."""
    token = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(token)


class Folded:
    """A network whose batch norms are folded into its convolutions when it runs on a CPU without gradients.

    In eval mode a batch norm multiplies and shifts each channel by constants: ``gamma (w * x + b - mean) / sqrt(var +
        eps) + beta`` is the convolution with the weights ``w gamma / sqrt(var + eps)`` and the bias ``(b - mean) gamma
        / sqrt(var + eps) + beta`` (Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", 2018, section 3.2). This saves one pass over each map. All convolutions are
        oneDNN's; otherwise, PyTorch would compute 1 x 1 convolutions of less than 16 images on a single thread, in
        twice the time. The result is that of the network up to rounding.

    The network itself is unchanged, with its parameters and their names, and runs in all other cases: with gradients,
    inside :func:`unfolded`, on another device, in another precision, with a norm in training mode, or if a hook needs
    the output of a layer that would not run. Changes of its weights are detected, unless they bypass PyTorch's version
    counter of tensors, as assigning to ``parameter.data[...]`` does. This class is not a module, so that it adds no
    parameters to the module that owns it.

    Args:
        network: A traced network, see also :func:`in_turn`, or layers in sequence. Other networks run unfolded, because
            they have no graph of their layers.

    Attributes:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._graph = _graph_of(network)
        self._fast: _Fast | None = None

    def __reduce__(self) -> tuple[type[Folded], tuple[nn.Module]]:
        return Folded, (self.network,)  # copies and pickles contain the weights once

    def __call__(self, maps: Tensor) -> Any:
        """The same as ``network(maps)`` up to rounding."""
        if (
            _WANTED.get()
            and self._graph is not None
            and maps.device.type == "cpu"
            and maps.dtype == torch.float32
            and maps.numel() > 0
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        ):
            fast = self._fast or self._begin(self._graph)
            if fast.allowed():
                return fast.network(maps)
        return self.network(maps)

    def _begin(self, graph: fx.GraphModule) -> _Fast:
        with _BUILDING:  # by one of the threads that come at the same time
            if self._fast is None:
                self._fast = _Fast(graph)
            return self._fast


def in_turn(network: nn.Module, names: Collection[str]) -> fx.GraphModule:
    """The children of a network in sequence, as a graph that :class:`Folded` can fold.

    Args:
        network: The network, which shares its layers.
        names: Names of the children whose outputs are needed, at least one; children after the last of them do not run.

    Returns:
        A network from maps to outputs by name.
    """
    graph, outputs = fx.Graph(), dict[str, fx.Node]()
    maps = graph.placeholder("maps")
    for name, _ in network.named_children():
        maps = graph.call_module(name, (maps,))
        if name in names:
            outputs[name] = maps
        if len(outputs) == len(names):
            break
    graph.output(outputs)
    return fx.GraphModule(network, graph).eval()


def _graph_of(network: nn.Module) -> fx.GraphModule | None:
    """The graph of a network, whose layers it shares; None for one that is neither traced nor a sequence."""
    if isinstance(network, fx.GraphModule):
        return network
    if type(network) is not nn.Sequential:
        return None
    graph = fx.Graph()
    maps = graph.placeholder("maps")
    for name, _ in network.named_children():
        maps = graph.call_module(name, (maps,))
    graph.output(maps)
    return fx.GraphModule(network, graph)


class _Fast:
    """The folded network, which shares everything but the folded weights with the original."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network = _flat(network)
        calls = [node for node in self.network.graph.nodes if node.op == "call_module"]
        times = Counter(node.target for node in calls)
        self._convolutions: list[_Convolution] = []
        for node in calls:
            if times[node.target] == 1:
                self._replace(node, str(node.target))
        self.network.recompile()
        running = set(self.network.modules())
        self._hidden = [m for m in network.modules() if m is not network and m not in running]

    def _replace(self, node: fx.Node, path: str) -> None:
        """Replace a convolution by a foldable one, and remove the norm after it."""
        layer, before = self.network.get_submodule(path), node.args[0]
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            owner, _, name = path.rpartition(".")
            self._convolutions.append(_Convolution(layer))
            setattr(self.network.get_submodule(owner), name, self._convolutions[-1])
        elif type(layer) in NORMS and isinstance(before, fx.Node) and before.op == "call_module":
            convolution = self.network.get_submodule(str(before.target))
            if (
                isinstance(convolution, _Convolution)
                and len(before.users) == 1
                and convolution.takes(cast(nn.BatchNorm2d, layer))
            ):
                node.replace_all_uses_with(before)
                self.network.graph.erase_node(node)
                self.network.delete_submodule(path)

    def allowed(self) -> bool:
        """Whether the layers that do not run have no other effects than the folded ones."""
        return all(c.folds() for c in self._convolutions) and not any(
            m._forward_hooks or m._forward_pre_hooks for m in self._hidden
        )


class _Convolution(nn.Module):
    """A convolution and the batch norm after it, folded when needed, and again when a weight has changed."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._own, self._norms = (
            [convolution],
            list[nn.BatchNorm2d](),
        )  # in lists, so that they are not registered as submodules
        self._padding = [int(p) for p in convolution.padding]
        self._stride, self._dilation, self._groups = (
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._seen: tuple[tuple[int, int], ...] = ()
        self._held: tuple[Tensor, ...] = ()
        self._folded: tuple[Tensor, Tensor] | None = None

    def takes(self, norm: nn.BatchNorm2d) -> bool:
        """Add this norm to the convolution, if possible and if it has none yet."""
        if self._norms or norm.running_mean is None or norm.running_var is None:
            return False
        self._norms.append(norm)
        return True

    def folds(self) -> bool:
        """Whether the norm is constant; in training mode it depends on the batch."""
        return not any(norm.training for norm in self._norms)

    def forward(self, maps: Tensor) -> Tensor:
        weight, bias = self._weights()
        maps = maps.contiguous(memory_format=torch.channels_last)
        convolve = fastest_convolution() if torch.backends.mkldnn.enabled else _pytorch_convolution
        return convolve(maps, weight, bias, self._padding, self._stride, self._dilation, self._groups)

    def _weights(self) -> tuple[Tensor, Tensor]:
        layers = (*self._own, *self._norms)
        tensors = [t for m in layers for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
        if any(t.is_inference() for t in tensors):  # these have no version counter
            return self._fold()
        seen, folded = tuple((t.data_ptr(), t._version) for t in tensors), self._folded
        if folded is None or seen != self._seen:
            folded = self._fold()
            # what is held keeps its address, so that no other tensor can be taken for it
            self._folded, self._held, self._seen = folded, tuple(t.detach() for t in tensors), seen
        return folded

    def _fold(self) -> tuple[Tensor, Tensor]:
        convolution = self._own[0]
        weight = convolution.weight.double()
        bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias.double()
        for norm in self._norms:
            assert norm.running_mean is not None  # see takes()
            assert norm.running_var is not None
            factor = (norm.running_var.double() + norm.eps).rsqrt()
            factor = factor if norm.weight is None else factor * norm.weight
            weight, bias = weight * factor[:, None, None, None], (bias - norm.running_mean) * factor
            bias = bias if norm.bias is None else bias + norm.bias
        return weight.float().contiguous(memory_format=torch.channels_last), bias.float()


def _flat(network: fx.GraphModule) -> fx.GraphModule:
    """The network with containers and residual blocks replaced by their layers."""
    graph = fx.Graph()

    def run(part: fx.Graph, path: str, inputs: Iterator[Argument]) -> Argument:
        """Copy the nodes of the module at this path; returns those of its output."""
        copied: dict[fx.Node, Argument] = {}
        for node in part.nodes:
            args, kwargs = map_arg((node.args, node.kwargs), copied.__getitem__)
            if node.op == "output":
                output: Argument = args[0]
                return output
            if node.op == "placeholder":
                copied[node] = next(inputs)
            elif node.op == "call_module":
                copied[node] = call(f"{path}{node.target}", args, kwargs)
            else:
                target = f"{path}{node.target}" if node.op == "get_attr" else node.target
                copied[node] = graph.create_node(node.op, target, args, kwargs)
        raise AssertionError("a graph without output")

    def call(path: str, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Argument:
        layer = network.get_submodule(path)
        if type(layer).forward is nn.Sequential.forward:
            for name in layer._modules:
                args = (call(f"{path}.{name}", args, {}),)
            return args[0]
        if type(layer) in BLOCKS:
            return run(OwnThread().trace(layer), f"{path}.", iter(args))
        return graph.call_module(path, args, kwargs)

    graph.output(run(network.graph, "", iter([graph.placeholder("maps")])))
    return fx.GraphModule(network, graph)


@cache
def fastest_convolution() -> Convolve:
    """oneDNN's convolution of maps, weights and bias with padding, stride, dilation and groups.

    It is undocumented in PyTorch, so it is tested first; if a result is wrong, PyTorch's own convolution is used.
    """
    generator = torch.Generator().manual_seed(0)
    for groups, side, stride in ((1, 1, 1), (1, 3, 2), (16, 3, 1)):
        maps = torch.randn(2, 16, 9, 9, generator=generator).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(32, 16 // groups, side, side, generator=generator)
        bias = torch.randn(32, generator=generator)
        rest = [side // 2] * 2, [stride] * 2, [1, 1], groups
        expected = _pytorch_convolution(maps, weight, bias, *rest)
        try:
            convolved = torch.mkldnn_convolution(maps, weight, bias, *rest)
        except (AttributeError, RuntimeError, TypeError):  # another build or version of PyTorch
            return _pytorch_convolution
        if not torch.allclose(convolved, expected, TOLERANCE, TOLERANCE):
            return _pytorch_convolution
    return torch.mkldnn_convolution


def _pytorch_convolution(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return torch.conv2d(maps, weight, bias, stride, padding, dilation, groups)
