"""Where training and evaluation images come from: generated scenes, composed photos, annotation files."""
