"""The engine sherpa-onnx, which recognises with models in the ONNX format."""
