"""Sources: where events come from.

``KINDS`` is what a configuration file can name; each is opened as ``open(settings, shard)``, or with a codec of the
platform's limits as third argument. A client library is imported when a source is opened.
"""

from __future__ import annotations

from tidegate.platform.contracts import Backend
from tidegate.platform.sources.database_scan import DatabaseSource, DatabaseSourceConfig
from tidegate.platform.sources.folder_watch import FolderSource, FolderSourceConfig
from tidegate.platform.sources.http_submit import HttpSource, HttpSourceConfig
from tidegate.platform.sources.kafka import KafkaSource, KafkaSourceConfig

__all__ = ["KINDS"]

KINDS = {
    "kafka": Backend(settings=KafkaSourceConfig, open=KafkaSource),
    "http": Backend(settings=HttpSourceConfig, open=HttpSource),
    "folder": Backend(settings=FolderSourceConfig, open=FolderSource),
    "database": Backend(settings=DatabaseSourceConfig, open=DatabaseSource),
}
