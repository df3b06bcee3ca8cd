"""Ways to look under a box: crop it, pool it from a shared feature map, or from a pyramid of maps."""
