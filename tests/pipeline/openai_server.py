"""A server of the OpenAI chat schema over a real, tiny LLaVA-OneVision model of ``transformers``' own class.

It stands for vLLM and SGLang, which need an accelerator: pictures come as data URLs, the model looks at them, and the
first answer token's log-probabilities are those of its logits.
"""

from __future__ import annotations

import base64
import io
import threading
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tidegate.models import build_tokenizer

VISION = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 2, "image_size": 48, "patch_size": 16, "vision_use_head": False}
TEXT = {"model_type": "qwen2", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
KEY = "a-secret-of-the-test"


def chat_tokenizer() -> Tokenizer:
    tokenizer = build_tokenizer(["yes no " * 20], 262)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    return tokenizer


class TinyChat:
    """The model behind the server."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        config = LlavaOnevisionConfig(vision_config=VISION, text_config=TEXT, video_token_index=3, image_token_index=4)
        self.model = LlavaOnevisionForConditionalGeneration(config).eval()
        self.tokenizer = chat_tokenizer()
        self.seen: list[dict[str, Any]] = []

    def logits(self, frames: list[np.ndarray], text: str) -> torch.Tensor:
        """Next-token logits after the frames and the text."""
        side = [np.asarray(Image.fromarray(frame).resize((48, 48), Image.Resampling.BICUBIC)) for frame in frames]
        pixels = torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).float() / 127.5 - 1.0 if side else None
        ids = [3] * (len(side) * 4 + (1 if side else 0)) + self.tokenizer.encode(text).ids
        with torch.inference_mode():
            out = self.model(
                input_ids=torch.tensor([ids]), pixel_values_videos=None if pixels is None else pixels[None]
            )
        return out.logits[0, -1]

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        frames, audio_seconds, text = [], 0.0, ""
        for part in body["messages"][0]["content"]:
            if part["type"] == "image_url":
                head, data = part["image_url"]["url"].split(",", 1)
                assert head == "data:image/jpeg;base64"
                frames.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
            elif part["type"] == "input_audio":
                with wave.open(io.BytesIO(base64.b64decode(part["input_audio"]["data"]))) as file:
                    audio_seconds = file.getnframes() / file.getframerate()
            else:
                text += part["text"]
        self.seen.append({"frames": len(frames), "audio_seconds": audio_seconds, "text": text})
        top = self.logits(frames, text).log_softmax(dim=-1).topk(min(body["top_logprobs"], 320))
        alternatives = [
            {"token": self.tokenizer.decode([int(index)], skip_special_tokens=False), "logprob": float(value)}
            for value, index in zip(*top, strict=True)
        ]
        first = {**alternatives[0], "top_logprobs": alternatives}
        message = {"role": "assistant", "content": first["token"]}
        return {"object": "chat.completion", "model": body["model"], "choices": [
            {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": [first]}}
        ]}


def chat_app(chat: TinyChat) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> dict[str, Any]:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            raise HTTPException(401, "no such key")
        body = await request.json()
        if body["model"] != "tiny-chat":
            raise HTTPException(404, f"no model {body['model']}")
        return chat.answer(body)

    return app


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The base URL of a running server."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
