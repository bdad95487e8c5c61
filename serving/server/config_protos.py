"""The text files that TensorFlow Serving's flags name, as messages.

The `tensorflow-serving-api` wheel leaves some of their definitions out, or ships them generated in a way that its
protobuf release cannot load. Those are declared here, field for field, in a pool of their own.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from twotower.serving.server.errors import StartupError

_FieldType = descriptor_pb2.FieldDescriptorProto
_FILE = "twotower/serving/server/config.proto"
_PACKAGE = "tensorflow.serving"
# Message, then its fields in order: name and type; a name of a message stands for itself, `*` for repeated.
_MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "SSLConfig": (
        ("server_key", "string"),
        ("server_cert", "string"),
        ("custom_ca", "string"),
        ("client_verify", "bool"),
    ),
    "PrometheusConfig": (("enable", "bool"), ("path", "string")),
    "MonitoringConfig": (("prometheus_config", f".{_PACKAGE}.PrometheusConfig"),),
    "BatchingParameters": (
        ("max_batch_size", ".google.protobuf.Int64Value"),
        ("batch_timeout_micros", ".google.protobuf.Int64Value"),
        ("max_enqueued_batches", ".google.protobuf.Int64Value"),
        ("num_batch_threads", ".google.protobuf.Int64Value"),
        ("thread_pool_name", ".google.protobuf.StringValue"),
        ("allowed_batch_sizes", "*int64"),
        ("pad_variable_length_inputs", "bool"),
    ),
}


def _declared() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name=_FILE, package=_PACKAGE, syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, (name, stated) in enumerate(fields, start=1):
            kind = stated.removeprefix("*")
            label = _FieldType.LABEL_OPTIONAL if kind == stated else _FieldType.LABEL_REPEATED
            field = message.field.add(name=name, number=number, label=label)
            if kind.startswith("."):
                field.type, field.type_name = _FieldType.TYPE_MESSAGE, kind
            else:
                field.type = _FieldType.Type.Value(f"TYPE_{kind.upper()}")
    pool: Any = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _declared()
SSLConfig = _CLASSES["SSLConfig"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
BatchingParameters = _CLASSES["BatchingParameters"]
ModelServerConfig = model_server_config_pb2.ModelServerConfig


def read_text_proto(flag: str, path: str, message_type: Any) -> Any:
    """The message in a text file.

    Args:
        flag: the flag that named the file, for the error.
        path: the file.
        message_type: its type.

    Raises:
        StartupError: the file cannot be read, or is no such message; the line and what is wrong there are named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--{flag}={path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return text_format.Parse(text, message_type())
    except text_format.ParseError as error:
        name = message_type.DESCRIPTOR.name
        raise StartupError(f"--{flag}={path}: expected a {name} as text, found at {error}") from error
