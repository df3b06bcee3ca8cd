"""Plug-ins of objemb and of other packages: names, settings, and building objects from settings."""

from objemb.registry.outside import Origin, PluginError, outside
from objemb.registry.plugins import KINDS, Plugin, load, names, origin, plugin
from objemb.registry.settings import arguments, build, from_settings, plain, resolve

__all__ = [
    "KINDS",
    "Origin",
    "Plugin",
    "PluginError",
    "arguments",
    "build",
    "from_settings",
    "load",
    "names",
    "origin",
    "outside",
    "plain",
    "plugin",
    "resolve",
]
