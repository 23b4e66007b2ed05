"""The text that a reader expects, made of what an engine puts out.

Engines write words with a space between any two. Chinese and Japanese are written without them;
Korean keeps them, and so do Latin words and numbers wherever they stand.
"""

import re
from collections.abc import Iterable

from models.scripts import FULL_WIDTH_SIGNS, UNSPACED

ENGINE_TOKENS = frozenset(
    {
        "[unk]",
        "<unk>",
        "[noise]",
        "[laughter]",
        "[vocalized-noise]",
        "<spoken_noise>",
        "<noise>",
        "<sil>",
        "!sil",
        "<eps>",
        "<s>",
        "</s>",
        "#nonterm",
        # AISHELL, THCHS-30 and multi-dialect Chinese corpora
        "[fil]",
        "[spk]",
        "[sil]",
        "[nsn]",
        "<fil>",
        "<spk>",
        "<nsn>",
        "<spn>",
        "[spn]",
        # Fisher, TED-LIUM, AMI and others
        "[breath]",
        "<breath>",
        "[cough]",
        "<cough>",
        "[lipsmack]",
        "[sigh]",
        "[sneeze]",
        "[mn]",
        "[music]",
        "<music>",
        "<laugh>",
        "[laugh]",
        "{laughter}",
        "{noise}",
        "{breath}",
        "{cough}",
        "{smack}",
        "<unknown>",
        "[pad]",
        "<pad>",
        "<blk>",
        "<blank>",
    }
)
"""Words of an engine for what is not speech, in lower case; dropped from texts and word lists.

Sources: the dictionaries of Kaldi's recipes and of published Vosk models.
"""

_UNSPACED = re.compile(
    f"[{UNSPACED}{FULL_WIDTH_SIGNS}\u31c0-\u31ef\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""Characters of scripts without spaces, their strokes and variants, and their punctuation."""


def is_engine_token(word: str) -> bool:
    """`word` is one of the engine's own, and not speech."""
    return word.lower() in ENGINE_TOKENS


def spaced_out(text: str) -> str:
    """Add spaces around each character of a script that is written without them."""
    return _UNSPACED.sub(r" \g<0> ", text)


def join_words(words: Iterable[str]) -> str:
    """Join words to a line of text, without engine tokens, with spaces if the script uses them."""
    text = ""
    for word in words:
        if is_engine_token(word):
            continue
        glued = not text or (_UNSPACED.match(text[-1]) and _UNSPACED.match(word[0]))
        text += word if glued else " " + word
    return text


def reader_text(engine_texts: Iterable[str], *, written: bool = False) -> str:
    """Return the text of whole utterances as the engine gives them. `written`: as people write
    them already (`models.Abilities.written`)."""
    if written:
        return join_texts(engine_texts)
    return join_words(word for text in engine_texts for word in text.split())


def join_texts(texts: Iterable[str]) -> str:
    """Return one text of several that are as readers expect them."""
    return join_words(text for each in texts if (text := each.strip()))
