"""The Thrift interface of a feature service, as Tidegate speaks it.

Enters: nothing. Leaves: the module that ``thriftpy2`` makes of the definition; services generate theirs from ``IDL``
in any language. A video that the service does not know is absent from the answer. A value has exactly one field set;
``observed_at`` says when it was computed, in Unix seconds, so that the reader can tell its age.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

from tidegate.errors import DependencyMissing

__all__ = ["IDL", "features_thrift"]

IDL = """
struct Value { 1: optional i64 integer, 2: optional double number, 3: optional string text, 4: optional bool flag }
struct Row { 1: required map<string, Value> values, 2: optional double observed_at }
exception Overloaded { 1: string message }
service VideoFeatures {
    map<string, Row> get_many(1: list<string> video_ids, 2: list<string> names) throws (1: Overloaded overloaded)
}
"""


@cache
def features_thrift() -> Any:
    """The parsed interface; one module for each process."""
    try:
        import thriftpy2
    except ImportError as error:
        raise DependencyMissing("expected thriftpy2; install it with: pip install 'tidegate[platform]'") from error
    return thriftpy2.load_fp(io.StringIO(IDL), "tidegate_features_thrift")
