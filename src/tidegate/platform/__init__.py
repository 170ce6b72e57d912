"""The video management platform at scale: Source → Retriever → Filter → Sink as mini-batches, losing nothing.

``contracts`` says what the parts promise each other, ``runner`` is the loop, ``config`` puts a platform together from a
file. Nothing is imported here, so that asking for one part does not load the others (or a client library).
"""
