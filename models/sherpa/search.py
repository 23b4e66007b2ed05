"""Search of a transducer: greedy, or with a beam, which can prefer keywords.

The library fixes the search when it loads a model. Greedy search is faster. With both, requests
without keywords are as fast as with greedy search alone; but the model is loaded twice, which costs
little if its weights are mapped from files, or small.

| `engines.onnx.hotwords` | loaded for the search |
| --- | --- |
| off | greedy |
| on | beam |
| auto | both, if the model is prepared or at most `_SMALL_BYTES` large; else greedy |
"""

from models.sherpa.files import disk_bytes
from models.sherpa.layout import Layout

GREEDY, BEAM, BOTH = "greedy", "beam", "both"
_SMALL_BYTES = 50_000_000


def search_of(layout: Layout, wanted: str, *, prepared: bool) -> str:
    """Return the search for which a model is loaded. `wanted`: the setting. Raises `OSError`."""
    if wanted == "off" or not _prefers_keywords(layout):
        return GREEDY
    if wanted == "on":
        return BEAM
    small = sum(disk_bytes(network) for network in layout.networks) <= _SMALL_BYTES
    return BOTH if prepared or small else GREEDY


def _prefers_keywords(layout: Layout) -> bool:
    """Return whether the library can prefer keywords with the model. NeMo's streaming transducers
    have only the greedy search."""
    kind, model_type = layout.kind.name, layout.metadata.get("model_type", "")
    return kind in ("transducer", "online_transducer") and not model_type.startswith("EncDec")
