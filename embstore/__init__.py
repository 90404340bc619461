"""The store of frame and pooled vectors; nothing has been written yet."""
