"""The synthetic corpus: short real MP4s whose evidence is known."""

from tidegate.corpus.synthetic.clauses import CLAUSES, EVIDENCE_KINDS, Clause, EvidenceKind
from tidegate.corpus.synthetic.config import CORPUS_VERSION, SyntheticConfig
from tidegate.corpus.synthetic.lexicon import Language, lexicon
from tidegate.corpus.synthetic.make import make_corpus
from tidegate.corpus.synthetic.regions import REGION_LANGUAGES

__all__ = [
    "CLAUSES",
    "CORPUS_VERSION",
    "EVIDENCE_KINDS",
    "REGION_LANGUAGES",
    "Clause",
    "EvidenceKind",
    "Language",
    "SyntheticConfig",
    "lexicon",
    "make_corpus",
]
