"""Punctuation models of sherpa-onnx in memory. Imported only where one is loaded."""

from collections.abc import Callable

from models.marks import with_marks
from models.sherpa.cnn_bilstm import CnnBilstm
from models.sherpa.loading import load_safely
from models.sherpa.punctuation_layout import PunctuationLayout
from models.sherpa.runtime import session_options

_SENTENCE = "one two 一 二"


class SherpaPunctuator:
    """A loaded punctuation model. Implements `models.punctuation.Punctuator`."""

    def __init__(self, layout: PunctuationLayout) -> None:
        """Load it. Raises `ModelError`."""
        self._kind = layout.kind
        with session_options() as provider:
            self._ask = load_safely(
                layout, lambda: _punctuation(layout, provider), try_out=lambda ask: ask(_SENTENCE)
            )

    def write(self, text: str) -> str:
        """See `models.punctuation.Punctuator`."""
        return with_marks(text, self._ask, self._kind.limits, cases=self._kind.cases)


def _punctuation(layout: PunctuationLayout, provider: str) -> Callable[[str], str]:
    """Make the library's object, or end the process (`models.sherpa.loading`)."""
    if layout.words is not None:
        return CnnBilstm(layout.network, layout.words)
    import sherpa_onnx

    config = sherpa_onnx.OfflinePunctuationModelConfig(
        ct_transformer=str(layout.network), num_threads=1, provider=provider
    )
    offline = sherpa_onnx.OfflinePunctuation(sherpa_onnx.OfflinePunctuationConfig(model=config))
    add: Callable[[str], str] = offline.add_punctuation
    return add
