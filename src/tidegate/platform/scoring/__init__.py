"""Scoring backends: one contract (``contracts.Scorer``), chosen by configuration. Nothing is imported here."""
