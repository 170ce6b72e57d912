"""Benchmarks: figures that are measured by a command, never asserted by a timed test."""
