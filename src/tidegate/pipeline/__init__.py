"""The path of one video: source → retriever → cascade → filter → sink, on one machine and with no server.

``scanner.load_preset`` is the front door from Python, ``tidegate scan`` from a shell. Nothing is imported here, so that
asking for one part does not load the others (or torch).
"""
