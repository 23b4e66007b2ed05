"""The text step "numbers": numbers as people write them.

What is not surely a number stays as it was spoken, and no number is written by half.
"""

from models.extras import how_to_install
from modelserver.worker.numbers_chinese import chinese
from modelserver.worker.numbers_english import english
from modelserver.worker.numbers_european import LANGUAGES, european
from modelserver.worker.numbers_japanese import japanese
from modelserver.worker.numbers_korean import korean
from modelserver.worker.text_steps import TextStep


def numbers_written(language: str) -> TextStep | None:
    """Make the step for a language (a BCP 47 tag); None for a language that it does not know.

    Raises `ImportError` where the extra is not installed.
    """
    primary = language.replace("_", "-").split("-")[0].lower()
    try:
        if primary in ("zh", "cn", "cmn"):
            return chinese
        if primary == "en":
            return english()
        if primary == "ja":
            return japanese
        if primary == "ko":
            return korean()
        if primary in LANGUAGES:
            return european(primary)
    except ImportError as error:
        raise ImportError(f"it needs the extra: {how_to_install('numbers')}") from error
    return None
