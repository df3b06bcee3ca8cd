"""Weights of networks: where they lie, how they are downloaded and read, and how they fill a network."""
