"""Small models and processors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_samples import LLAVA, PROCESSOR, RESNET, WHISPER, XLM_R

from tidegate.models.avlm import Avlm
from tidegate.models.configs import AvlmConfig, MultiTowerConfig
from tidegate.models.multitower import MultiTower
from tidegate.models.processor import ClipProcessor
from tidegate.models.tokens import build_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer(["good morning friends", "I am cooking soup today"], 320)


@pytest.fixture
def avlm() -> Avlm:
    torch.manual_seed(0)
    return Avlm(AvlmConfig(issue="icd", vision_language=LLAVA, audio=WHISPER)).eval()


@pytest.fixture
def processor(tokenizer: Any) -> ClipProcessor:
    return ClipProcessor(PROCESSOR, tokenizer)


@pytest.fixture
def towers() -> MultiTower:
    torch.manual_seed(0)
    return MultiTower(MultiTowerConfig(issue="icd", vision=RESNET, audio=WHISPER, text=XLM_R)).eval()


@pytest.fixture
def towers_processor(tokenizer: Any) -> ClipProcessor:
    config = replace(PROCESSOR, video_tokens_per_frame=0, prompt_prefix="<s>", prompt_suffix="</s>")
    return ClipProcessor(config, tokenizer)
