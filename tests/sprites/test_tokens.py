from pathlib import Path

from sprites.catalogue import Subject
from sprites.networks import TEXT_LENGTH
from sprites.tokens import END, START, build, caption_words

SUBJECTS = [Subject("bow and arrow", "1f3f9", ("bow",)), Subject("dragon", "1f409")]


def test_every_caption_word_is_one_token() -> None:
    tokenizer = build(SUBJECTS)
    for word in caption_words(SUBJECTS):
        assert len(tokenizer(word).input_ids) == 3, word


def test_text_survives_a_round_trip() -> None:
    tokenizer = build(SUBJECTS)
    ids = tokenizer("Pixel art of a bow and arrow, TEAL background").input_ids
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert (pieces[0], pieces[-1]) == (START, END)
    assert tokenizer.decode(ids, skip_special_tokens=True) == (
        "pixel art of a bow and arrow , teal background"
    )


def test_unknown_words_fall_apart_and_long_prompts_are_cut() -> None:
    tokenizer = build(SUBJECTS)
    assert len(tokenizer("zyzzyva").input_ids) > 3
    padded = tokenizer("dragon " * 99, padding="max_length", truncation=True)
    assert len(padded.input_ids) == TEXT_LENGTH


def test_the_same_subjects_give_the_same_ids_after_saving(tmp_path: Path) -> None:
    first, second = build(SUBJECTS), build(SUBJECTS)
    assert first.get_vocab() == second.get_vocab()
    first.save_pretrained(tmp_path)
    loaded = type(first).from_pretrained(tmp_path)
    text = "cartoon of a red dragon, white background"
    assert loaded(text).input_ids == first(text).input_ids
