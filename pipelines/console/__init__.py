"""Shared code for command lines and terminals."""
