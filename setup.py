"""What pyproject.toml cannot say: the configs lie beside the package here, and inside it where it is installed."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["objemb*"]), "objemb.configs"], package_dir={"objemb.configs": "configs"})
