"""Installation: pyproject.toml says everything but that the configs, which lie beside the package, travel within it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["semask_d2*"]), "semask_d2.configs"],
    package_dir={"semask_d2.configs": "configs"},
    package_data={
        "semask_d2": ["py.typed", "*/assets/*", "inference/assets/*/*"],
        "semask_d2.configs": ["**/*.yaml", "*.md"],
    },
)
