"""Exported models: graphs that other runtimes run, and the proof that they give what PyTorch gives."""
