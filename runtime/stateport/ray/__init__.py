# SPDX-License-Identifier: Apache-2.0
"""stateport on a Ray cluster: whole data sets of sequences, and live streams on many replicas.

It needs the extra `ray`; live streams also need the extra `serve`.

>>> import ray, stateport.ray
>>> data = ray.data.read_parquet("recordings/")
>>> answers = stateport.ray.predict(data, "model.onnx", input="audio", workers=8)
>>> answers.write_parquet("answers/")

>>> replicas = stateport.ray.deployment("model.onnx", store="redis://10.0.0.7:6379")
>>> ray.serve.run(replicas.bind())
"""

from typing import TYPE_CHECKING

from .._lazy import on_first_use as _on_first_use

if TYPE_CHECKING:
    from .data import predict
    from .serve import deployment

__all__ = ["deployment", "predict"]

__getattr__, __dir__ = _on_first_use(__name__, __all__, ("data", "serve"))
