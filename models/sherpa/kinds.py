"""Kinds of models that sherpa-onnx loads for speech recognition, and the files of each.

Names of files are what a release has, with `.int8` and the like before the ending; `encoder` stands
for any name with that word. `tokens` is `tokens.txt`, or the same with a prefix.

| kind | files | known by |
| --- | --- | --- |
| sense_voice, paraformer, zipformer_ctc, nemo_ctc, wenet_ctc, telespeech_ctc, tdnn_ctc, \
dolphin_ctc, omnilingual_ctc, medasr_ctc, fire_red_asr_ctc | model, tokens | metadata of the model |
| online_zipformer2_ctc, online_nemo_ctc, online_wenet_ctc, online_t_one_ctc | model, tokens | \
metadata of the model, with the sizes of its chunks |
| transducer, nemo_transducer | encoder, decoder, joiner, tokens | metadata of the encoder |
| online_transducer | the same | the same, with the sizes of its chunks |
| whisper, canary, cohere, fire_red_asr, online_paraformer | encoder, decoder, tokens | \
metadata of the encoder |
| moonshine | preprocess, encode, uncached_decode, cached_decode, tokens | names |
| moonshine_v2 | encoder_model, decoder_model_merged (`.ort`), tokens | names |
| qwen3_asr | conv_frontend, encoder, decoder, directory tokenizer | names |
| funasr_nano | encoder_adaptor, llm, embedding, directory of a tokenizer | names |
"""

from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_S = 25.0
"""Seconds of audio that models without a limit of their own decode at once. Memory grows with its
square, and most models were trained on shorter audio."""
WHISPER_LONGEST_S = 29.5
"""Whisper's window of 30 s, less the half second of silence at its end."""

_CANARY = ("en", "de", "es", "fr")
_COHERE = ("ar", "de", "el", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "vi", "zh")
_SENSE_VOICE = ("zh", "yue", "en", "ja", "ko")


@dataclass(frozen=True, slots=True)
class Kind:
    """A family of models that sherpa-onnx loads with one method."""

    name: str
    """Stable, for reports."""
    factory: str
    """Method of `sherpa_onnx.OfflineRecognizer`, or of `OnlineRecognizer` where `streaming`."""
    arguments: tuple[str, ...] = ("model",)
    """Arguments of `factory` that are networks: the first one's metadata tells what the model
    is."""
    streaming: bool = False
    longest_s: float = LONGEST_S
    """Seconds of audio that it decodes at once; meaningless if `streaming`."""
    written: bool | None = None
    """True if its texts have case and punctuation; None: if its tokens have."""
    transducer: bool = False
    """True if it gives confidences, and takes hotwords with `modified_beam_search`."""
    sample_rate: int = 16000
    languages: tuple[str, ...] = ()
    detects_language: bool = False


_TRANSDUCER = ("encoder", "decoder", "joiner")
_PAIR = ("encoder", "decoder")


_ALL = (
    Kind(
        "sense_voice",
        "from_sense_voice",
        written=True,
        languages=_SENSE_VOICE,
        detects_language=True,
    ),
    Kind("paraformer", "from_paraformer", ("paraformer",)),
    Kind("zipformer_ctc", "from_zipformer_ctc"),
    Kind("nemo_ctc", "from_nemo_ctc"),
    Kind("wenet_ctc", "from_wenet_ctc"),
    Kind("telespeech_ctc", "from_telespeech_ctc"),
    Kind("tdnn_ctc", "from_tdnn_ctc", sample_rate=8000),
    Kind("dolphin_ctc", "from_dolphin_ctc"),
    Kind("omnilingual_ctc", "from_omnilingual_asr_ctc"),
    Kind("medasr_ctc", "from_medasr_ctc"),
    Kind("fire_red_asr_ctc", "from_fire_red_asr_ctc"),
    Kind("transducer", "from_transducer", _TRANSDUCER, transducer=True),
    Kind("nemo_transducer", "from_transducer", _TRANSDUCER, transducer=True),
    Kind("whisper", "from_whisper", _PAIR, longest_s=WHISPER_LONGEST_S, written=True),
    Kind("canary", "from_nemo_canary", _PAIR, written=True, languages=_CANARY),
    Kind("cohere", "from_cohere_transcribe", _PAIR, written=True, languages=_COHERE),
    Kind("fire_red_asr", "from_fire_red_asr", _PAIR),
    Kind(
        "moonshine",
        "from_moonshine",
        ("preprocessor", "encoder", "uncached_decoder", "cached_decoder"),
        written=True,
    ),
    Kind("moonshine_v2", "from_moonshine_v2", _PAIR, written=True),
    # 512 positions for the audio, at 12.5 a second, and its text.
    Kind(
        "qwen3_asr",
        "from_qwen3_asr",
        ("conv_frontend", "encoder", "decoder"),
        longest_s=20.0,
        written=True,
    ),
    Kind("funasr_nano", "from_funasr_nano", ("encoder_adaptor", "llm", "embedding"), written=True),
    Kind("online_transducer", "from_transducer", _TRANSDUCER, streaming=True, transducer=True),
    Kind("online_paraformer", "from_paraformer", _PAIR, streaming=True),
    Kind("online_zipformer2_ctc", "from_zipformer2_ctc", streaming=True),
    Kind("online_nemo_ctc", "from_nemo_ctc", streaming=True),
    Kind("online_wenet_ctc", "from_wenet_ctc", streaming=True),
    Kind("online_t_one_ctc", "from_t_one_ctc", streaming=True, sample_rate=8000),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}
"""Kinds by name."""

_SINGLE = {
    "sense_voice_ctc": "sense_voice",
    "paraformer": "paraformer",
    "zipformer2_ctc": "zipformer_ctc",
    "EncDecCTCModel": "nemo_ctc",
    "EncDecCTCModelBPE": "nemo_ctc",
    "EncDecHybridRNNTCTCBPEModel": "nemo_ctc",
    "wenet_ctc": "wenet_ctc",
    "telespeech_ctc": "telespeech_ctc",
    "tdnn": "tdnn_ctc",
    "omnilingual-asr": "omnilingual_ctc",
    "medasr_ctc": "medasr_ctc",
    "fire-red-asr-2-ctc": "fire_red_asr_ctc",
    "t-one": "online_t_one_ctc",
}
_STREAMING_SINGLE = {
    "decode_chunk_len": "online_zipformer2_ctc",
    "cache_last_channel_dim1": "online_nemo_ctc",
    "left_chunks": "online_wenet_ctc",
    "right_context": "online_wenet_ctc",
}
"""Keys of metadata that only streaming models have: the sizes of their chunks and caches."""
_ICEFALL = ("conformer", "ebranchformer", "lstm", "zipformer", "zipformer2")


def kind_of_single(metadata: Mapping[str, str]) -> Kind | None:
    """Return the kind of a model in one file."""
    for key, name in _STREAMING_SINGLE.items():
        if key in metadata:
            return KINDS[name]
    name = _SINGLE.get(metadata.get("model_type", ""), "")
    if not name and {"mean", "invstd"} <= metadata.keys():
        name = "dolphin_ctc"
    return KINDS.get(name)


def kind_of_pair(metadata: Mapping[str, str]) -> Kind | None:
    """Return the kind of a model with an encoder and a decoder, by the encoder's metadata."""
    model_type = metadata.get("model_type", "")
    if model_type.startswith("whisper") or {"n_mels", "sot_sequence"} <= metadata.keys():
        return KINDS["whisper"]
    if model_type == "EncDecMultiTaskModel":
        return KINDS["canary"]
    if "cohere-transcribe" in model_type:
        return KINDS["cohere"]
    if {"cmvn_mean", "num_decoder_layers"} <= metadata.keys():
        return KINDS["fire_red_asr"]
    if "decoder_num_blocks" in metadata:
        return KINDS["online_paraformer"]
    return None


def kind_of_transducer(metadata: Mapping[str, str]) -> Kind | None:
    """Return the kind of a model with a joiner, by the encoder's metadata."""
    model_type = metadata.get("model_type", "")
    nemo = model_type.startswith("EncDec")
    if not nemo and model_type not in _ICEFALL:
        return None
    chunks = ("decode_chunk_len", "cache_last_channel_dim1", "streaming_model_type")
    if any(key in metadata for key in chunks):
        return KINDS["online_transducer"]
    return KINDS["nemo_transducer" if nemo else "transducer"]


def supported_types() -> str:
    """Return the supported values of `model_type`, in words."""
    return ", ".join(sorted({*_SINGLE, *_ICEFALL, "whisper-*", "EncDec*"}))
