"""Answers to spoken questions, from a language model behind OpenAI's chat API."""
