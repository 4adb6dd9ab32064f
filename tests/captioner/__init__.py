"""Tests of `captioner`."""
