"""What pyproject.toml cannot say: the configs lie beside the package here, and inside it where it is installed."""

from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = ["objemb.configs", *(f"objemb.configs.{folder}" for folder in find_namespace_packages("configs"))]

setup(packages=[*find_packages(include=["objemb*"]), *CONFIGS], package_dir={"objemb.configs": "configs"})
