"""Exported base stages: towers that ONNX Runtime or OpenVINO computes, with Tidegate's own pooling and head.

    config.json               format, model configuration, backend, precision, the towers' files
    vision.onnx | vision.xml  one graph a tower (audio, text), inputs of any batch size
    model.safetensors         the head and the vectors that stand for missing modalities
    the rest                  as in a checkpoint

Enters: such a folder. Leaves: a ``MultiTower`` whose encoders are these graphs. Pooling, missing modalities and head
are the same code as in training, so that only the graphs can differ, and ``tidegate export`` measures by how much. A
graph is data: it is read by a runtime that knows its operators, and runs no Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tidegate.errors import CheckpointError, DependencyMissing
from tidegate.models.configs import MultiTowerConfig, model_config_from_dict
from tidegate.models.multitower import MultiTower

__all__ = ["BACKENDS", "EXPORT_FORMAT", "GraphEncoder", "load_exported", "open_graph", "tower_inputs"]

EXPORT_FORMAT = "tidegate-export-1"
BACKENDS = ("onnx", "openvino")
Graph = Callable[[Mapping[str, npt.NDArray[Any]]], npt.NDArray[np.float32]]


def tower_inputs(config: MultiTowerConfig, modality: str) -> tuple[str, ...]:
    """Names of a tower's inputs, in order."""
    if modality == "text" and config.text is not None and config.text["model_type"] == "siglip_text_model":
        return ("input_ids",)
    names = {"vision": ("pixel_values",), "audio": ("input_features",), "text": ("input_ids", "attention_mask")}
    return names[modality]


def _onnx_graph(path: Path) -> Graph:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyMissing("an ONNX stage needs onnxruntime: pip install 'tidegate[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _onnx_errors(onnxruntime) as error:
        raise CheckpointError(f"expected a graph that ONNX Runtime reads in {path}, found: {error}") from error

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = session.run(None, dict(inputs))[0]
        return result

    return run


def _onnx_errors(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises on a file that is no graph; its classes share no base but ``Exception``."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError, OSError)


def _openvino_graph(path: Path) -> Graph:
    try:
        import openvino
    except ImportError as error:
        raise DependencyMissing("an OpenVINO stage needs openvino: pip install 'tidegate[export]'") from error
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    try:
        # INFERENCE_PRECISION_HINT: without it a processor with bf16 units would compute a float32 graph in bf16.
        compiled = core.compile_model(str(path), "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"expected a graph that OpenVINO reads in {path}, found: {error}") from error

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = np.array(compiled(dict(inputs))[compiled.output(0)])
        return result

    return run


def open_graph(path: Path, backend: str) -> Graph:
    """A graph as a function of named arrays, on the CPU."""
    if backend not in BACKENDS:
        raise CheckpointError(f"{path}: expected a backend among {BACKENDS}, found {backend!r}")
    if not path.is_file():
        raise CheckpointError(f"expected the graph {path}, found none")
    return _onnx_graph(path) if backend == "onnx" else _openvino_graph(path)


class GraphEncoder(nn.Module):
    """A graph in the place of a ``transformers`` encoder: the same inputs, and the output that a tower reads."""

    def __init__(self, names: tuple[str, ...], graph: Graph) -> None:
        super().__init__()
        self._names, self._graph = names, graph

    def forward(self, *given: Tensor, **named: Tensor) -> SimpleNamespace:
        """The encoder's output under both names that towers know."""
        tensors = dict(zip(self._names, given, strict=False)) | named
        arrays = {name: np.ascontiguousarray(tensors[name].detach().cpu().numpy()) for name in self._names}
        output = torch.from_numpy(self._graph(arrays))
        return SimpleNamespace(last_hidden_state=output, pooler_output=output)


def load_exported(folder: Path, values: Mapping[str, Any]) -> MultiTower:
    """The model of an export folder; ``values`` is its ``config.json``."""
    config = model_config_from_dict(str(values.get("class")), values.get("model", {}))
    graphs, backend = values.get("graphs"), str(values.get("backend"))
    if not isinstance(config, MultiTowerConfig) or not isinstance(graphs, dict):
        raise CheckpointError(f"{folder}/config.json: expected an exported MultiTower with its graphs")
    if set(graphs) != set(config.modalities) or not all(_is_plain_name(name) for name in graphs.values()):
        raise CheckpointError(
            f"{folder}/config.json: expected one file in the folder for each of {config.modalities}, found {graphs}"
        )
    encoders: dict[str, nn.Module] = {
        name: GraphEncoder(tower_inputs(config, name), open_graph(folder / graphs[name], backend))
        for name in config.modalities
    }
    model = MultiTower(config, encoders=encoders)
    model.exported_parameters = int(values.get("num_parameters", 0))
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"expected the head of this export in {path}, found: {error}") from error
    return model.eval()


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name
