"""Runnable stories: made-up calls, the demo, small programs; no library imports them."""
