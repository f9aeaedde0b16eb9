"""The tokenizer: CLIP's byte-pair encoding with a vocabulary made from the captions' own words.

Every word that a caption can contain is one token; any other text falls apart into smaller ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import pre_tokenizers

from sprites.catalogue import BACKGROUNDS, COLOURS, STYLES, Subject
from sprites.networks import Tokenizer, new_tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"

_GRAMMAR = "a an of on in the background"


def caption_words(subjects: Iterable[Subject]) -> list[str]:
    """Every word of every caption, sorted; letters and digits are cut apart as CLIP does."""
    phrases = [_GRAMMAR, *STYLES, *BACKGROUNDS, *COLOURS, ", - . '"]
    for subject in subjects:
        phrases += [subject.name, *subject.aliases]
    return sorted({word for text in phrases for word in re.findall(r"[^\W\d]+|\d|[^\w\s]", text)})


def build(subjects: Iterable[Subject]) -> Tokenizer:
    """A tokenizer for the subjects' captions; the same subjects give the same ids."""
    merges = learn_merges(caption_words(subjects))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    pieces += [first + second for first, second in merges]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, START, END]))}
    return new_tokenizer(ids, merges)


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al., 2016), most frequent first, until each word is one piece.

    Ties go to the alphabet. The tokenizers library's own trainer breaks them at random, and a
    model is worth nothing with other ids than it was trained with.
    """
    encoder = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelt: list[list[str]] = []
    for word in words:
        letters = list("".join(piece for piece, _ in encoder.pre_tokenize_str(word)))
        spelt.append([*letters[:-1], f"{letters[-1]}</w>"])
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in spelt for pair in pairwise(word))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spelt = [_merge(word, best) for word in spelt]


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        # A piece that was just merged is a new one: it may not start the pair again.
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
