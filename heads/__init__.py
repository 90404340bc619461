"""Task heads on top of the encoder's frames; none has been written yet."""
