# SPDX-License-Identifier: Apache-2.0
"""stateport on a Ray cluster: whole data sets of sequences (the extra `ray`).

>>> import ray, stateport.ray
>>> data = ray.data.read_parquet("recordings/")
>>> answers = stateport.ray.predict(data, "model.onnx", input="audio", workers=8)
>>> answers.write_parquet("answers/")
"""

from .predict import predict as predict

__all__ = ["predict"]
