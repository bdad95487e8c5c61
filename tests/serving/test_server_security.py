"""TLS, mutual TLS and the bearer token, with keys made for the test."""

import datetime
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_harness import ServerProcess, free_port, save_toy, times
from tensorflow_serving.apis import prediction_service_pb2_grpc

from twotower.serving.server.main import main

TOKEN = "s3cret"


@dataclass(frozen=True)
class Pair:
    """A key and its certificate, as PEM."""

    key: bytes
    certificate: bytes


def _pem(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Pair:
    return Pair(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


class Authority:
    """Signs certificates for localhost."""

    def __init__(self, name: str) -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pair = _pem(self._key, self._sign(self._name, self._key, is_authority=True))

    def issue(self) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        return _pem(key, self._sign(name, key, is_authority=False))

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("test authority")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.issue()


def credentials(authority: Authority, pair: Pair | None) -> grpc.ChannelCredentials:
    if pair is None:
        return grpc.ssl_channel_credentials(authority.pair.certificate)
    return grpc.ssl_channel_credentials(authority.pair.certificate, pair.key, pair.certificate)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority, client: Pair) -> Iterator[ServerProcess]:
    """A server with mutual TLS and a token, and REST beside it."""
    root = tmp_path_factory.mktemp("secure")
    save_toy(root / "toy", 2)
    own = authority.issue()
    (root / "ssl.config").write_text(
        f'server_key: "{_escaped(own.key)}" server_cert: "{_escaped(own.certificate)}"\n'
        f'custom_ca: "{_escaped(authority.pair.certificate)}" client_verify: true\n'
    )
    (root / "token").write_text(f"{TOKEN}\n")
    rest_port = free_port()
    with ServerProcess(
        root / "toy",
        f"--ssl_config_file={root / 'ssl.config'}",
        f"--auth_token_file={root / 'token'}",
        f"--rest_api_port={rest_port}",
        credentials=credentials(authority, client),
    ) as process:
        process.rest_port = rest_port  # type: ignore[attr-defined]
        yield process


def _escaped(pem: bytes) -> str:
    return pem.decode().replace("\n", "\\n")


def code_of(channel: grpc.Channel, *metadata: tuple[str, str]) -> str:
    try:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert list(stub.Predict(times([2.0]), timeout=5, metadata=metadata).outputs["y"].float_val) == [4.0]
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_the_token_is_asked_for(server: ServerProcess) -> None:
    assert code_of(server.channel, ("authorization", f"Bearer {TOKEN}")) == "OK"
    assert code_of(server.channel, ("authorization", "Bearer other")) == "UNAUTHENTICATED"
    assert code_of(server.channel) == "UNAUTHENTICATED"


def test_health_needs_no_token(server: ServerProcess) -> None:
    reply = health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_rest_asks_for_the_token_too(server: ServerProcess) -> None:
    url = f"http://localhost:{server.rest_port}/v1/models/toy:predict"  # type: ignore[attr-defined]
    request = urllib.request.Request(url, b'{"instances": [1]}', {"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=5) as reply:
        assert reply.status == 200
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(url, b"{}", timeout=5)
    assert raised.value.code == 401


def test_a_client_without_a_certificate_or_with_a_strangers_is_not_let_in(
    server: ServerProcess, authority: Authority
) -> None:
    stranger = Authority("stranger").issue()
    for pair in (None, stranger):
        with grpc.secure_channel(f"localhost:{server.port}", credentials(authority, pair)) as channel:
            assert code_of(channel, ("authorization", f"Bearer {TOKEN}")) == "UNAVAILABLE"
    with grpc.insecure_channel(f"localhost:{server.port}") as channel:
        assert code_of(channel, ("authorization", f"Bearer {TOKEN}")) == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        (
            "ssl_config_file",
            'server_key: "no key" server_cert: "no certificate"',
            "the keys of --ssl_config_file are wrong",
        ),
        ("ssl_config_file", "server_kee: 1", "expected a SSLConfig as text, found at 1:1"),
        ("auth_token_file", " \n", "empty; expected a token"),
        ("monitoring_config_file", "prometheus { }", "expected a MonitoringConfig as text"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, text: str, message: str
) -> None:
    save_toy(tmp_path / "toy", 1)
    (tmp_path / "file").write_text(text)
    assert main([f"--model_base_path={tmp_path / 'toy'}", "--port=0", f"--{flag}={tmp_path / 'file'}"]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
