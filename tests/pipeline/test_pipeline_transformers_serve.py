"""A real ``transformers serve`` with a tiny checkpoint: its decision API scores, its chat API is refused by name."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from openai_server import TEXT
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tidegate.errors import ServiceRefused
from tidegate.models import build_tokenizer
from tidegate.pipeline.remote_stage import RemoteConfig, RemoteStage
from tidegate.types import Clip, Span, TextSpan

pytestmark = pytest.mark.long
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_checkpoint(folder: Path) -> None:
    tokenizer = build_tokenizer(["Yes No yes no " * 20], 266)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    values = {key: value for key, value in TEXT.items() if key != "model_type"}
    Qwen2ForCausalLM(Qwen2Config(**values)).save_pretrained(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = tmp_path_factory.mktemp("serve") / "tiny-chat"
    write_checkpoint(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1",
               "--port", str(port), "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 200
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "transformers serve ended"
                assert time.monotonic() < until, "transformers serve did not come up"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait(30)


def test_decision_api_scores_and_chat_api_is_refused(served: tuple[str, str]) -> None:
    url, model = served
    clips = [
        Clip(video_id=f"c{n}", span=Span(0, 1), frames=None, audio=None, texts=(TextSpan("title", text),))
        for n, text in enumerate(("good morning", "yes yes yes no no yes"))
    ]
    settings = {"url": url, "model": model, "clause": "A rule.", "frames": 1, "deadline_seconds": 120.0}
    scores = RemoteStage(config=RemoteConfig(api="systemone", **settings))(clips)  # type: ignore[arg-type]
    assert all(0 < score.value < 1 for score in scores)
    assert scores[0].value != scores[1].value
    with pytest.raises(ServiceRefused, match="logprobs"):
        RemoteStage(config=RemoteConfig(**settings))(clips[:1])  # type: ignore[arg-type]
