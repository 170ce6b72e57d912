"""Texts to token ids: prompt lines, truncation, and the tiny models' own byte-level tokenizer.

Enters: text spans of a clip. Leaves: token ids. Any ``tokenizer.json`` works (Qwen2's, XLM-R's); byte-level BPE can
encode every Unicode text, so nothing is lost to unknown tokens (Sennrich et al. 2016; Radford et al. 2019).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tidegate.errors import CheckpointError
from tidegate.types import TextSpan

__all__ = [
    "build_tokenizer",
    "encode_texts",
    "highest_token_id",
    "literal_tokenizer",
    "parse_tokenizer",
    "prompt_lines",
    "special_token_id",
]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<video>")
_LEAST_IMPORTANT_FIRST = ("chat", "transcript", "ocr", "sticker", "title")


def prompt_lines(texts: Sequence[TextSpan]) -> str:
    """One line a text: ``title[en]: ...``. The title comes last, so truncation from the left takes it last."""
    ordered = sorted(texts, key=lambda text: _LEAST_IMPORTANT_FIRST.index(text.kind))
    return "".join(
        f"{text.kind}{'' if text.language is None else f'[{text.language}]'}: {text.text.strip()}\n"
        for text in ordered
        if text.text.strip()
    )


def encode_texts(tokenizer: Tokenizer, texts: Sequence[TextSpan], max_tokens: int) -> tuple[list[int], int]:
    """Token ids of the texts, and how many tokens were dropped from the left to fit ``max_tokens``."""
    token_ids = list(tokenizer.encode(prompt_lines(texts), add_special_tokens=False).ids)
    dropped = max(0, len(token_ids) - max_tokens)
    return token_ids[dropped:], dropped


def literal_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of the same vocabulary that reads special tokens in a text as the letters they are written with.

    Titles come from strangers: one that holds ``<video>`` or an end-of-turn token must not become that token.
    """
    literal = Tokenizer.from_str(tokenizer.to_str())
    literal.encode_special_tokens = True
    return literal


def parse_tokenizer(text: str, where: str) -> Tokenizer:
    """A tokenizer out of the content of ``tokenizer.json``; ``where`` names the file in errors."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"expected JSON in {where}, found: {error}") from error
    if not isinstance(values, dict) or not {"model", "added_tokens", "pre_tokenizer"} <= set(values):
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"expected a tokenizer in {where}, found the keys {found}")
    return Tokenizer.from_str(text)


def highest_token_id(tokenizer: Tokenizer) -> int:
    """The largest id that the tokenizer can give."""
    return max(tokenizer.get_vocab().values(), default=-1)


def special_token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a token that the tokenizer must have."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise CheckpointError(f"expected a tokenizer with the token {token!r}, found none among its vocabulary")
    return int(token_id)


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE learnt from ``texts``; pad is token 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
