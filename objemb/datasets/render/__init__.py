"""Drawing: products from random numbers, backdrops, light, and how objects are laid into a scene."""
