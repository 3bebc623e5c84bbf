"""Simulated surveys: sources, absorption, instruments. Arrays only; nothing here imports torch."""
