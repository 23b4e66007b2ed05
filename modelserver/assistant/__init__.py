"""The language model that answers what was said: some server of OpenAI's chat API, elsewhere."""
