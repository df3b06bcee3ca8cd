from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.export import scripting_with_instances
from detectron2.structures import Boxes, Instances

from objemb.detectors.detectron2_rcnn import scripted
from tests.detectors.small_detectron2 import C4, FASTER, MASK, built, embedding_config, entry, usual_config
from tests.detectors.test_detectron2_heads import found, tail_config

pytestmark = pytest.mark.detectron2

#: Fields of ``Instances`` in these networks.
FIELDS: dict[str, type] = {
    **dict.fromkeys(("objectness_logits", "scores", "pred_classes", "pred_masks", "pred_embeddings"), torch.Tensor),
    **dict.fromkeys(("proposal_boxes", "pred_boxes"), Boxes),
}


def expect_equal(program: Any, network: Any, sides: tuple[int, int]) -> None:
    photo = entry(sides)
    (instances,) = found(network, photo, do_postprocess=False)
    assert len(instances) > 1
    with torch.no_grad():
        compiled: Instances = program.inference([photo], do_postprocess=False)[0]
    torch.testing.assert_close(compiled.pred_boxes.tensor, instances.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(compiled.pred_embeddings, instances.pred_embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [FASTER, MASK, C4])
def test_detectron2_compiles_heads_on_maps_of_the_backbone(name: str) -> None:
    network = built(embedding_config(name)).eval()
    expect_equal(scripting_with_instances(network, FIELDS), network, (96, 48))


CONFIGS = {
    "tail": lambda: tail_config(),
    "windows": lambda: tail_config(OBJECT_SIDE=32.0),
    "windows of the pyramid": lambda: embedding_config(OBJECT_SIDE=32.0),
    "C4": lambda: embedding_config(C4, IN_FEATURES=["trunk8"]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_traced_within_a_program(kind: str) -> None:
    """For photos of other sizes than that of the example, and as many boxes as there are."""
    network = built(CONFIGS[kind]()).eval()
    program = scripted(network)
    expect_equal(program, network, (96, 48))
    names = set(network.state_dict())
    expect_equal(program, network, (72, 96))
    assert set(network.state_dict()) == names, "a copy was compiled"


def test_networks_that_are_not_compiled() -> None:
    windows = built(embedding_config(OBJECT_SIDE=32.0)).eval()
    program = scripting_with_instances(windows, FIELDS)
    with pytest.raises(torch.jit.Error, match=r"expected one without the levels of its trunk.*scripted compiles"):
        program.inference([entry((96, 48))])
    with pytest.raises(ValueError, match="expected one in eval mode"):
        scripted(windows.train())
    with pytest.raises(TypeError, match="expected one with an embedding head, found StandardROIHeads"):
        scripted(built(usual_config()).eval())
