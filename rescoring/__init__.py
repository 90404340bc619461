"""Rescoring of N-best lists without torch; nothing has been written yet."""
