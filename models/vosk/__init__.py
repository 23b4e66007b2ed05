"""Vosk, and Kaldi below it: how a model is recognised, prepared, loaded and decoded."""
