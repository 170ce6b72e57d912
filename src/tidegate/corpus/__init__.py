"""Corpus: manifests, splits, loaders of real data sets, and the synthetic corpus.

Enters: manifests and folders. Leaves: checked entries, and videos whose evidence is known.
"""

from tidegate.corpus.loaders import load_copies, load_esc10, load_fights
from tidegate.corpus.manifest import SPLITS, Entry, Manifest, Split, read_manifest, write_manifest
from tidegate.corpus.splits import grouped_split, hash_split
from tidegate.corpus.synthetic import CORPUS_VERSION, SyntheticConfig, make_corpus

__all__ = [
    "CORPUS_VERSION",
    "SPLITS",
    "Entry",
    "Manifest",
    "Split",
    "SyntheticConfig",
    "grouped_split",
    "hash_split",
    "load_copies",
    "load_esc10",
    "load_fights",
    "make_corpus",
    "read_manifest",
    "write_manifest",
]
