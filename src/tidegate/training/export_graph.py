"""Towers to graphs: ONNX by ``torch.onnx``, OpenVINO by its own converter, int8 by ``nncf``'s static quantisation.

Enters: a trained ``MultiTower`` and items of a feature table. Leaves: one file a tower. Calibration feeds the graphs
with the towers' own inputs from real videos: ranges that are measured on noise cost accuracy.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tidegate.errors import CheckpointError, DependencyMissing
from tidegate.models.batch import Batch, ClipFeatures
from tidegate.models.exported import tower_inputs
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor

__all__ = ["Backend", "Feed", "tower_feeds", "write_graph"]

Backend = Literal["onnx", "openvino"]
Feed = dict[str, npt.NDArray[Any]]
"""Inputs of one tower, by name."""


class _Tower(nn.Module):
    """A tower's encoder with the one output that ``MultiTower`` reads."""

    def __init__(self, encoder: Any, modality: str, pooled: bool) -> None:
        super().__init__()
        self.encoder, self.modality, self.pooled = encoder, modality, pooled

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        output = self.encoder(first) if second is None else self.encoder(input_ids=first, attention_mask=second)
        result: Tensor = output.last_hidden_state
        if self.pooled:
            pooled = output.pooler_output
            result = result.mean(dim=1) if pooled is None else pooled.flatten(1)
        return result


def _extra(name: str) -> Any:
    import importlib

    os.environ.setdefault("NNCF_CI", "1")  # nncf reports its use to its makers unless this is set
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DependencyMissing(f"export needs {name}: pip install 'tidegate[export]'") from error


def tower_feeds(model: MultiTower, processor: ClipProcessor, items: Sequence[ClipFeatures]) -> dict[str, list[Feed]]:
    """What each tower is given for these items, one feed an item that has the modality."""
    feeds: dict[str, list[Feed]] = {name: [] for name in model.config.modalities}
    for item in items:
        batch = processor.collate([item])
        for name in model.config.modalities:
            if name not in item.missing and (tensors := _tensors(model, name, batch)) is not None:
                names = tower_inputs(model.config, name)
                feeds[name].append({key: value.numpy() for key, value in zip(names, tensors, strict=True)})
    return feeds


def _tensors(model: MultiTower, modality: str, batch: Batch) -> tuple[Tensor, ...] | None:
    if modality == "vision":
        return None if batch.pixels_NCHW is None else (batch.pixels_NCHW,)
    if modality == "audio":
        return None if batch.mel_BMF is None else (batch.mel_BMF,)
    if batch.token_ids_BL is None or batch.token_mask_BL is None or batch.token_ids_BL.shape[1] == 0:
        return None
    tower: Any = model.towers["text"]
    if len(tower_inputs(model.config, modality)) == 1:
        return (tower.rows(batch),)
    return batch.token_ids_BL, batch.token_mask_BL


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters print pages about operators they skipped."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write_onnx(model: MultiTower, modality: str, feed: Feed, path: Path) -> None:
    tower: Any = model.towers[modality]
    names = tower_inputs(model.config, modality)
    pooled = modality == "vision" or (len(names) == 1 and modality == "text")
    # Two rows: torch.export takes a dimension of size 1 for a constant.
    given = tuple(torch.from_numpy(np.concatenate([feed[name]] * 2)) for name in names)
    rows = torch.export.Dim("rows")
    shapes: list[dict[int, Any]] = [{0: rows} for _ in names]
    if modality == "text" and not pooled:
        tokens = torch.export.Dim("tokens", min=2)
        shapes = [{0: rows, 1: tokens} for _ in names]
    wrapped = _Tower(tower.encoder, modality, pooled).eval()
    dynamic = tuple(shapes)
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            wrapped, given, input_names=list(names), output_names=["output"], dynamo=True, verbose=False,
            dynamic_shapes=dynamic if len(names) > 1 else (dynamic[0], None)[: len(given)],
        )  # fmt: skip
        if program is None:
            raise CheckpointError(f"expected torch.onnx to export the {modality} tower, got nothing")
        program.save(str(path), external_data=False)


def _quantised(graph: Any, feeds: Sequence[Feed], *, transformer: bool) -> Any:
    nncf = _extra("nncf")
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    dataset = nncf.Dataset(list(feeds))
    with _quietly():
        return nncf.quantize(
            graph, dataset, subset_size=len(feeds), preset=nncf.QuantizationPreset.MIXED, model_type=kind
        )


def write_graph(
    model: MultiTower, modality: str, feeds: Sequence[Feed], folder: Path, *, backend: Backend, int8: bool
) -> str:
    """Write one tower's graph and say the file's name. ``feeds`` calibrate int8; one at least gives the shapes."""
    onnx = _extra("onnx")
    _extra("onnxscript")
    if not feeds:
        raise CheckpointError(f"expected at least one video with {modality} to export its tower, got none")
    plain = folder / f"{modality}.onnx"
    _write_onnx(model, modality, feeds[0], plain)
    config: Any = getattr(model.config, modality)
    transformer = config["model_type"] != "resnet"
    if backend == "onnx":
        if int8:
            onnx.save(_quantised(onnx.load(str(plain)), feeds, transformer=transformer), str(plain))
        return plain.name
    openvino = _extra("openvino")
    graph = openvino.Core().read_model(str(plain))
    if int8:
        graph = _quantised(graph, feeds, transformer=transformer)
    openvino.save_model(graph, str(folder / f"{modality}.xml"), compress_to_fp16=False)
    plain.unlink()
    return f"{modality}.xml"
