"""Draws products, backdrops and light from random numbers, and pastes objects into scenes."""
