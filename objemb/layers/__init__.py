"""Modules that networks, describers and aggregators share: trained and fitted layers, and ways to run networks."""
