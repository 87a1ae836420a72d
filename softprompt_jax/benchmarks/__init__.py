"""Measurements against what people would use instead, side by side on one machine."""
