"""Weights of networks: finding, downloading and reading them, and filling networks with them."""
