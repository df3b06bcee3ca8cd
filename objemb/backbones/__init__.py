"""Classification networks as feature maps with declared channels and stride."""
