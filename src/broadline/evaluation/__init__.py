"""Evaluation: what a catalogue is worth beside a truth. Arrays in, numbers out."""
