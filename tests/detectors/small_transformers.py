"""Detectors of transformers with few, random weights, as folders of ``save_pretrained``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

SIZE = {"shortest_edge": 64, "longest_edge": 96}
LAYERS = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 7}
FEET = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
NAMES = {0: "cup", 1: "box", 2: "book"}
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "red", "cup", "box"]


def detr(folder: Path) -> None:
    trunk = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=trunk, id2label=NAMES, **LAYERS, **FEET
    )
    _save(transformers.DetrForObjectDetection(config), transformers.DetrImageProcessor(size=SIZE), folder)


def yolos(folder: Path) -> None:
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        num_detection_tokens=5, id2label=NAMES,
    )  # fmt: skip
    _save(transformers.YolosForObjectDetection(config), transformers.YolosImageProcessor(size=SIZE), folder)


def rt_detr(folder: Path) -> None:
    trunk = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=trunk, encoder_in_channels=[8, 16, 16], encoder_hidden_dim=32, decoder_in_channels=[32, 32, 32],
        feat_strides=[8, 16, 32], num_denoising=0, id2label=NAMES, **LAYERS, **FEET,
    )  # fmt: skip
    processor = transformers.RTDetrImageProcessor(size={"height": 64, "width": 64})
    _save(transformers.RTDetrForObjectDetection(config), processor, folder)


def owlvit(folder: Path) -> None:
    _open_vocabulary(folder, transformers.OwlViTConfig, transformers.OwlViTForObjectDetection, "OwlViT")


def owlv2(folder: Path) -> None:
    _open_vocabulary(folder, transformers.Owlv2Config, transformers.Owlv2ForObjectDetection, "Owlv2")


def grounding_dino(folder: Path) -> None:
    trunk = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    config = transformers.GroundingDinoConfig(
        backbone_config=trunk, text_config=text, max_text_len=16, **{**LAYERS, "decoder_layers": 2}, **FEET
    )
    tokenizer = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    processor = transformers.GroundingDinoProcessor(transformers.GroundingDinoImageProcessor(size=SIZE), tokenizer)
    _save(transformers.GroundingDinoForObjectDetection(config), processor, folder)


#: Makers of folders, by the type of the network, and its prompts.
FOLDERS: dict[str, tuple[Callable[[Path], None], list[str] | None]] = {
    "detr": (detr, None),
    "yolos": (yolos, None),
    "rt_detr": (rt_detr, None),
    "owlvit": (owlvit, ["cup", "a red box"]),
    "owlv2": (owlv2, ["cup", "a red box"]),
    "grounding-dino": (grounding_dino, ["a red box", "cup"]),
}


def small(kind: str, folder: Path) -> dict[str, Any]:
    """Settings of a small detector, whose files are written to a folder."""
    make, prompts = FOLDERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make(folder)
    return {"weights": str(folder), "prompts": prompts, "score_threshold": 0.0}


def _open_vocabulary(folder: Path, config: Any, network: Any, prefix: str) -> None:
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    start = len(vocabulary) - 2
    made = config(
        text_config={
            **layers, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "bos_token_id": start,
            "eos_token_id": start + 1, "pad_token_id": 0,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    tokenizer = transformers.CLIPTokenizer(vocab={token: n for n, token in enumerate(vocabulary)}, merges=[])
    photos = getattr(transformers, f"{prefix}ImageProcessor")(size={"height": 32, "width": 32})
    _save(network(made), getattr(transformers, f"{prefix}Processor")(photos, tokenizer), folder)


def _save(network: Any, processor: Any, folder: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
