"""Audio alignment: texts after audio, decoding with a cache, error rates, speakers kept apart, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
import typer
from training_samples import AVLM, ListTable, small_avlm
from typer.testing import CliRunner

from tidegate.cli import train
from tidegate.errors import ConfigError
from tidegate.models import Card, load_checkpoint, save_checkpoint
from tidegate.models.avlm import Avlm
from tidegate.models.batch import ClipFeatures
from tidegate.models.processor import ClipProcessor
from tidegate.training.align import AlignConfig, align, fused_early, written
from tidegate.training.continuation import PADDING, continuation_logits, greedy, log_probabilities, pad_continuations
from tidegate.training.hearing_errors import hearing_errors, plain_text
from tidegate.training.lifecycle import curve_table
from tidegate.training.recipes import OptimiserConfig
from tidegate.training.speech import Heard, SpeechConfig, heard_items, speech_table

torch.set_num_threads(1)
EARLY = replace(AVLM, fusion="early", audio_tokens=4, language_head=True)


def tones(count: int) -> tuple[list[Heard], ListTable]:
    """Items whose sound says which of two words is to be written."""
    rng = np.random.default_rng(0)
    items, clips = [], []
    for number in range(count):
        high = number % 2
        mel_MF = 0.1 * rng.standard_normal((16, 100)).astype(np.float32)
        mel_MF[8 * high : 8 * high + 8] += 1.0
        items.append(
            Heard(
                item_id=f"i{number}",
                task="transcribe",
                text=("good morning", "wait and see")[high],
                language="en",
                new_order=False,
                speaker="m1",
                seed=number,
            )
        )
        clips.append(ClipFeatures(frames_THWC=None, mel_MF=mel_MF, num_mel_frames=90, token_ids=np.zeros(0, np.int64)))
    return items, ListTable(tuple(item.item_id for item in items), tuple(clips))


def early() -> tuple[Avlm, ClipProcessor]:
    return small_avlm(EARLY)


def test_continuations_are_given_the_tokens_before_them_and_no_others() -> None:
    model, processor = early()
    model.eval()
    _, table = tones(2)
    batch = processor.collate([table[0], table[1]])
    rows = [[5, 9, 12], [7, 2]]
    logits = continuation_logits(model, batch, pad_continuations(rows))
    shorter = continuation_logits(model, batch, pad_continuations([[5, 9], [7, 2]]))
    torch.testing.assert_close(logits[:, :2], shorter)
    other = continuation_logits(model, batch, pad_continuations([[5, 9, 99], [7, 2]]))
    torch.testing.assert_close(logits, other)
    alone = continuation_logits(model, processor.collate([table[1]]), pad_continuations([[7, 2]]))
    torch.testing.assert_close(logits[1:, :2], alone)


def test_log_probability_of_a_text_is_the_sum_over_its_tokens() -> None:
    logits = torch.randn(2, 3, 7)
    targets = torch.tensor([[1, 2, 3], [4, PADDING, PADDING]])
    expected = [sum(logits[0, s].log_softmax(-1)[s + 1] for s in range(3)), logits[1, 0].log_softmax(-1)[4]]
    torch.testing.assert_close(log_probabilities(logits, targets), torch.stack([torch.as_tensor(v) for v in expected]))


def test_decoding_with_a_cache_gives_what_the_whole_sequence_gives_at_each_step() -> None:
    model, processor = early()
    model.eval()
    _, table = tones(3)
    batch = processor.collate([table[row] for row in range(3)])
    found = greedy(model, batch, end_id=-1, max_tokens=6)
    slow: list[list[int]] = [[], [], []]
    for _ in range(6):
        targets = pad_continuations([[*row, 0] for row in slow])
        last = continuation_logits(model, batch, targets)[:, -1].argmax(-1).tolist()
        slow = [[*row, token] for row, token in zip(slow, last, strict=True)]
    assert found == slow
    end = found[0][2]
    assert greedy(model, batch, end_id=end, max_tokens=6)[0] == found[0][: found[0].index(end)]


def test_early_fusion_keeps_the_parts_and_leaves_a_model_that_has_it_alone() -> None:
    late, _ = small_avlm()
    model = fused_early(late, 4)
    assert (model.config.fusion, model.config.audio_tokens, model.config.language_head) == ("early", 4, True)
    kept = [name for name in late.state_dict() if not name.startswith("head.")]
    assert all(torch.equal(late.state_dict()[name], model.state_dict()[name]) for name in kept)
    assert fused_early(model, 4) is model


def config(hours: float) -> AlignConfig:
    return AlignConfig(
        speech=SpeechConfig(languages=("en",), utterances=4, sounds=0, test_each=1),
        hours=hours,
        marks_hours=(hours / 2,),
        audio_tokens=4,
        max_tokens=16,
        optimiser=OptimiserConfig(batch_size=8, learning_rate=1e-2, warmup_fraction=0.05),
    )


def test_model_learns_to_write_what_it_hears_and_vision_rests(tmp_path: Path) -> None:
    model, processor = early()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = tones(16)
    result = align(model, processor, given, given, config(0.15), resume=tmp_path / "run.pt")
    assert [round(record["hours"], 2) for record in result.curve] == [0.0, 0.08, 0.15]
    assert result.curve[-1]["wer"] < 0.1 < result.curve[0]["wer"]
    assert written(model, processor, given[1], given[0], config(0.15))[:2] == ["good morning", "wait and see"]
    moved = {name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"audio", "audio_projector", "vision_language", "language_head"}
    resting = ("vision_language.vision_tower.", "vision_language.multi_modal_projector.", "head.")
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before if name.startswith(resting))
    again, _ = early()
    resumed = align(again, processor, given, given, config(0.15), resume=tmp_path / "run.pt")
    assert resumed.curve[-1]["wer"] == result.curve[-1]["wer"]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_alignment_of_a_model_that_does_not_write_is_refused() -> None:
    model, processor = small_avlm()
    with pytest.raises(ConfigError, match="fused_early"):
        align(model, processor, tones(2), tones(2), config(0.1))


def test_no_speaker_and_no_item_of_the_test_is_heard_in_training() -> None:
    speech = SpeechConfig(utterances=300, sounds=44, test_each=2)
    learnt, asked = heard_items(speech, "train"), heard_items(speech, "test")
    spoken = [item for item in learnt if item.task == "transcribe"]
    assert len({item.language for item in spoken}) == len({i.language for i in asked if i.language}) == 33
    voices = {item.speaker for item in spoken} & {item.speaker for item in asked if item.language}
    assert voices == set()
    assert {item.item_id for item in learnt} & {item.item_id for item in asked} == set()
    assert len({item.text for item in learnt if item.task == "describe"}) == 11
    assert heard_items(speech, "train") == learnt


def test_error_rates_count_edits_by_language_and_characters_where_there_are_no_spaces() -> None:
    def item(text: str, language: str | None, new_order: bool = False) -> Heard:
        task = "describe" if language is None else "transcribe"
        return Heard(item_id=text, task=task, text=text, language=language, new_order=new_order, speaker="m1", seed=0)  # type: ignore[arg-type]

    items = [
        item("Buy drugs, here cheap", "en"),
        item("uno dos", "es", True),
        item("你好吗", "zh"),
        item("glass break", None),
    ]
    errors = hearing_errors(items, ["buy drugs there", "uno dos", "你吗", "Glass break."])
    assert errors["by_language"] == {"en": 0.5, "es": 0.0, "zh": pytest.approx(1 / 3)}
    assert errors["wer"] == pytest.approx(2 / 6)
    assert (errors["known_wer"], errors["new_order_wer"], errors["sounds"]) == (0.5, 0.0, 1.0)
    pairs = [("buy drugs here cheap", "buy drugs there"), ("uno dos", "uno dos"), ("你好吗", "你吗")]
    assert errors["cer"] == pytest.approx(jiwer.cer([a for a, _ in pairs], [b for _, b in pairs]))
    assert plain_text("  Ἀθῆναι, «ΝΑΙ»! ") == "ἀθῆναι ναι"


def test_curve_becomes_a_table_with_a_row_a_language() -> None:
    record = {"hours": 0.0, "wer": 1.0, "cer": 1.0, "known_wer": 1.0, "new_order_wer": 1.0, "sounds": 0.0}
    rows = curve_table([{**record, "by_language": {"en": 1.0}}, {**record, "hours": 1.5, "by_language": {"en": 0.25}}])
    assert rows[0] == ["error rate after", "0.00 h", "1.50 h"]
    assert rows[-1] == ["en", "1.00", "0.25"]


@pytest.mark.long
def test_stages_of_a_life_start_from_the_checkpoint_of_the_one_before(tmp_path: Path) -> None:
    from training_samples import small_corpus

    app = typer.Typer(pretty_exceptions_enable=False)
    train.register(app)
    model, processor = small_avlm()
    save_checkpoint(model, processor, tmp_path / "start", Card(name="small", issue="icd"))
    words = ["train", "align", "--init", str(tmp_path / "start"), "--out", str(tmp_path / "aligned"), "--hours", "0.01"]
    words += ["--language", "en", "--language", "ja", "--utterances", "8", "--sounds", "11", "--test-each", "1"]
    words += ["--mark", "0.005", "--audio-tokens", "4"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    curve = json.loads((tmp_path / "aligned.alignment.json").read_text())
    assert len(curve) == 3
    assert "WER, new sentences" in result.stdout
    data = small_corpus(tmp_path)
    words = [
        "train",
        "avlm",
        "--data",
        str(data),
        "--init",
        str(tmp_path / "aligned"),
        "--out",
        str(tmp_path / "tuned"),
    ]
    result = CliRunner().invoke(app, [*words, "--recipe", "lora-avlm", "--epochs", "1", "--batch-size", "2"])
    assert result.exit_code == 0, result.output
    pairs = [{"video_id": f"v{n:02d}", "chosen": "good", "rejected": "wait"} for n in range(18)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    words = [
        "train",
        "prefer",
        "--data",
        str(data),
        "--init",
        str(tmp_path / "tuned"),
        "--out",
        str(tmp_path / "liked"),
    ]
    result = CliRunner().invoke(app, [*words, "--pairs", str(tmp_path / "pairs.jsonl"), "--learning-rate", "0.01"])
    assert result.exit_code == 0, result.output
    last, _, card = load_checkpoint(tmp_path / "liked")
    assert (last.config.fusion, last.config.language_head) == ("early", True)  # type: ignore[union-attr]
    assert card.name == "lora-avlm-preferred"
    assert card.metrics["after"]["reward_margin"] > 0


def test_speech_is_spoken_once_and_read_from_its_folder_afterwards(tmp_path: Path) -> None:
    _, processor = small_avlm()
    speech = SpeechConfig(languages=("en", "hi"), utterances=2, sounds=0, test_each=1)
    items, table = speech_table(heard_items(speech, "train"), processor, tmp_path)
    again, cached = speech_table(heard_items(speech, "train"), processor, tmp_path)
    assert (table.from_cache, cached.from_cache, len(items)) == (False, True, 2)
    assert again == items
    np.testing.assert_array_equal(table[1].mel_MF, cached[1].mel_MF)
    assert table[0].num_mel_frames > 20
