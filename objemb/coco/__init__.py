"""Files in COCO's format: boxes, categories and masks of images (Lin et al., "Microsoft COCO", 2014)."""
