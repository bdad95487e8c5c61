"""serving/protos: what callers in other languages generate from is TensorFlow Serving's own protocol."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from twotower_client import wire_pb2

PROTOS = Path(__file__).parents[2] / "serving" / "protos"
Field = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The descriptor of serving.proto, as protoc makes it."""
    out = tmp_path_factory.mktemp("protos") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--descriptor_set_out={out}", "serving.proto"]
    subprocess.run(command, check=True)
    (only,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return only


def messages(found: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every message with its name below the package; the entries of maps are messages too."""
    for message in found:
        yield prefix + message.name, message
        yield from messages(message.nested_type, f"{prefix}{message.name}.")


def reached(descriptor: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The messages that one holds, itself included, by their name below the package."""
    name = descriptor.full_name.removeprefix(f"{descriptor.file.package}.")
    if name not in found:
        found[name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                reached(field.message_type, found)
    return found


@pytest.fixture(scope="module")
def originals() -> dict[str, Any]:
    """TensorFlow's and TensorFlow Serving's own messages."""
    found: dict[str, Any] = {}
    for module in (predict_pb2, get_model_metadata_pb2, get_model_status_pb2):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            reached(descriptor, found)
    return found


class Paths:
    """A channel that notes what a stub calls, and the message that answers it."""

    def __init__(self, *stubs: Any) -> None:
        self.methods: dict[str, str] = {}
        for stub in stubs:
            stub(self)

    def unary_unary(self, path: str, response_deserializer: Any, **_: Any) -> None:
        self.methods[path] = response_deserializer(b"").DESCRIPTOR.full_name


def last(type_name: str) -> str:
    return type_name.rsplit(".", 1)[-1]


def test_every_field_is_the_originals(file: Any, originals: dict[str, Any]) -> None:
    compared = 0
    for name, message in messages(file.message_type):
        theirs = originals[name].fields_by_number
        for field in message.field:
            other = theirs[field.number]
            assert (field.name, field.label) == (other.name, other.label), name
            if (name, field.name) == ("StatusProto", "error_code"):  # an enum there, the same number on the wire
                assert (field.type, other.type) == (Field.TYPE_INT32, Field.TYPE_ENUM)
                continue
            assert field.type == other.type, (name, field.name)
            inner = other.message_type or other.enum_type
            assert last(field.type_name) == (inner.name if inner else ""), (name, field.name)
            compared += 1
    assert compared > 50


def test_every_enum_is_the_originals(file: Any, originals: dict[str, Any]) -> None:
    (dtypes,) = file.enum_type
    theirs = originals["TensorProto"].fields_by_name["dtype"].enum_type.values_by_name
    assert all(theirs[value.name].number == value.number for value in dtypes.value)
    (states,) = next(message for name, message in messages(file.message_type) if name == "ModelVersionStatus").enum_type
    theirs = originals["ModelVersionStatus"].enum_types_by_name["State"].values_by_name
    assert {value.name: value.number for value in states.value} == {n: one.number for n, one in theirs.items()}


def test_the_services_are_the_originals(file: Any) -> None:
    theirs = Paths(prediction_service_pb2_grpc.PredictionServiceStub, model_service_pb2_grpc.ModelServiceStub).methods
    ours = {
        f"/{file.package}.{service.name}/{method.name}": method.output_type.removeprefix(".")
        for service in file.service
        for method in service.method
    }
    assert len(ours) == 3
    assert all(theirs[path] == answer for path, answer in ours.items())


def test_the_python_client_speaks_the_same(file: Any) -> None:
    renamed = {"Int64Value": "Int64Value", "Any": "Packed"}  # it brings its own of the well-known types
    own = descriptor_pb2.FileDescriptorProto.FromString(wire_pb2.DESCRIPTOR.serialized_pb)
    ours = dict(messages(own.message_type))
    shipped = dict(messages(file.message_type))
    assert ours.keys() - shipped.keys() == {"Int64Value", "Packed"}
    for name, message in shipped.items():
        expected = [(f.name, f.number, f.type, f.label, last(f.type_name)) for f in message.field]
        expected = [(*most, renamed.get(inner, inner)) for *most, inner in expected]
        assert expected == [(f.name, f.number, f.type, f.label, last(f.type_name)) for f in ours[name].field]


def test_the_clients_generated_code_is_of_its_proto(tmp_path: Path) -> None:
    package = Path(wire_pb2.__file__).parent
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{package.parent}", f"--python_out={tmp_path}"]
    subprocess.run([*command, "twotower_client/wire.proto"], check=True)
    made, ours = ((folder / "wire_pb2.py").read_text() for folder in (tmp_path / "twotower_client", package))
    version = "# Protobuf Python Version: 4.25.1\n"
    assert version in ours
    if version not in made:
        pytest.skip("the generator of the current version set is a newer one")
    assert made == ours
