"""Every backbone keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from objemb import registry
from objemb.backbones._probe import map_shape, meta_copy
from tests.contracts.made import build, every


@every("backbones")
class TestBackbones:
    def sizes(self, net: Any) -> list[tuple[int, int]]:
        """Odd sizes where the network takes them, and one as narrow as a cell."""
        unit = net.multiple
        sides = [(2 * net.stride, 3 * net.stride + 1), (97, 65), (net.stride, 4 * net.stride)]
        return [(-(-height // unit) * unit, -(-width // unit) * unit) for height, width in sides]

    @torch.no_grad()
    def test_declared_channels_and_stride(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        for height, width in self.sizes(net):
            maps = net(torch.rand(2, 3, height, width))
            assert maps.dtype == torch.float32
            assert torch.isfinite(maps).all()
            assert maps.shape[:2] == (2, net.channels)
            for cells, side in zip(maps.shape[2:], (height, width), strict=True):
                assert cells in (side // net.stride, -(-side // net.stride)), (height, width)

    @torch.no_grad()
    def test_the_size_of_the_map_is_known_before_the_network_runs(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        empty = meta_copy(net)
        for height in range(2 * net.stride, 4 * net.stride + 1, net.multiple):
            shape = (-(-height // net.multiple) * net.multiple, 5 * net.multiple * -(-net.stride // net.multiple))
            assert net.map_size(shape) == map_shape(empty, *shape)[2:], shape
        for shape in self.sizes(net):
            assert net.map_size(shape) == tuple(net(torch.rand(1, 3, *shape)).shape[2:])

    def test_cells_look_where_the_offset_says(self, name: str, tmp_path: Path) -> None:
        """The middle of the pixels that a cell depends on, weighted by how much."""
        net = build("backbones", name, tmp_path)
        side = -(-9 * net.stride // net.multiple) * net.multiple
        generator, weights = torch.Generator().manual_seed(0), torch.zeros(side, side)
        for _ in range(8):
            pixels = torch.rand(1, 3, side, side, generator=generator).requires_grad_()
            net(pixels)[0, :, 4, 4].square().sum().backward()
            assert pixels.grad is not None
            weights += pixels.grad[0].square().sum(dim=0)
        steps = torch.arange(side) + 0.5
        middles = torch.stack([(weights.sum(dim=d) * steps).sum() / weights.sum() for d in (0, 1)])
        assert (middles - net.offset - 4.5 * net.stride).abs().max() < net.stride / 4

    def test_offsets_of_all_maps(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        assert net.offsets().keys() == net.stages.keys()
        assert net.offsets().get(net.stride, net.offset) == net.offset

    @torch.no_grad()
    def test_alone_or_in_a_batch_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        net.train()
        assert not any(m.training for m in net.modules()), "a backbone stays in eval mode"
        pixels = torch.rand(3, 3, *self.sizes(net)[0])
        before = pixels.clone()
        together = net(pixels)
        alone = torch.cat([net(p[None]) for p in pixels])
        assert (together - alone).abs().max() < 1e-4 * max(1.0, float(alone.abs().max()))
        assert torch.equal(pixels, before), "a backbone does not edit its input"

    @torch.no_grad()
    def test_channels_are_not_interchangeable(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        pixels = torch.rand(1, 3, *self.sizes(net)[0])
        assert not torch.allclose(net(pixels), net(pixels.flip(1)))

    def test_built_without_weights(self, name: str, tmp_path: Path) -> None:
        arguments = registry.arguments(registry.load("backbones", name))
        assert "detector" in arguments or arguments["weights"].default is None
