"""Metadata of the ``twotower-client`` distribution: the client alone, without TensorFlow and the rest of twotower."""

from pathlib import Path

from setuptools import setup

setup(
    name="twotower-client",
    version="0.1.0",
    description="Typed gRPC client of the twotower recommender: no TensorFlow.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=["twotower_client"],
    package_data={"twotower_client": ["py.typed", "*.proto", "*.pyi"]},
    install_requires=["grpcio>=1.60", "protobuf>=4.25"],
    # numpy is four fifths of an installation with it, and only the two embed calls give arrays.
    extras_require={"embeddings": ["numpy>=1.24"]},
    zip_safe=False,
)
