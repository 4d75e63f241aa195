# SPDX-License-Identifier: Apache-2.0
"""The messages of the gRPC form of the protocol, as open_inference.proto describes them.

The classes are made when this module is imported, from the description in open_inference.binpb.
Generated modules would work with few versions of protobuf: each refuses those before its own, and
warns of those long after. The pool of descriptions is private, so that other modules of the
process may define messages of the same names, as Triton's client does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_PACKAGE: Final = "stateport.open_inference"
_POOL: Final = DescriptorPool()
_POOL.AddSerializedFile(Path(__file__).with_suffix(".binpb").read_bytes())


def _message(name: str) -> Any:
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


ServerLiveRequest: Final = _message("ServerLiveRequest")
ServerLiveResponse: Final = _message("ServerLiveResponse")
ServerReadyRequest: Final = _message("ServerReadyRequest")
ServerReadyResponse: Final = _message("ServerReadyResponse")
ModelReadyRequest: Final = _message("ModelReadyRequest")
ModelReadyResponse: Final = _message("ModelReadyResponse")
ServerMetadataRequest: Final = _message("ServerMetadataRequest")
ServerMetadataResponse: Final = _message("ServerMetadataResponse")
ModelMetadataRequest: Final = _message("ModelMetadataRequest")
ModelMetadataResponse: Final = _message("ModelMetadataResponse")
ModelInferRequest: Final = _message("ModelInferRequest")
ModelInferResponse: Final = _message("ModelInferResponse")
ModelStreamInferResponse: Final = _message("ModelStreamInferResponse")
ModelConfigRequest: Final = _message("ModelConfigRequest")
ModelConfigResponse: Final = _message("ModelConfigResponse")
ModelStatisticsRequest: Final = _message("ModelStatisticsRequest")
ModelStatisticsResponse: Final = _message("ModelStatisticsResponse")
