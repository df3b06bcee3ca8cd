"""Describers: photos become regions with vectors."""
