"""The text step "vocabulary": a request's keywords as they are written, where the recogniser has
understood other words that sound the same."""

from typing import TYPE_CHECKING

from models.extras import how_to_install

if TYPE_CHECKING:
    from modelserver.worker.vocabulary_step import Vocabulary


def vocabulary(language: str) -> "Vocabulary":
    """Make the step for a language (a BCP 47 tag). Raises `ImportError` where the extra is not
    installed."""
    try:
        from modelserver.worker.vocabulary_step import Vocabulary

        return Vocabulary(language.replace("_", "-").split("-")[0].lower())
    except ImportError as error:
        raise ImportError(f"it needs the extra: {how_to_install('vocabulary')}") from error
