"""What pyproject.toml cannot say: the presets go into the package.

They lie in `configs/` at the top level of the repository, where people look
for them, and inside the one package that a wheel installs.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["nvae_tf", "nvae_tf.*"]),
        "nvae_tf.configs",
    ],
    package_dir={"nvae_tf.configs": "configs"},
)
