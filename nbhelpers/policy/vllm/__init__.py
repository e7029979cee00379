"""The policy sampled by vLLM inside the training process."""
