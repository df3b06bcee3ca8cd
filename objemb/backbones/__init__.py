"""Backbones: classification networks that give feature maps with declared channels and stride."""
