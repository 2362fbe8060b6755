"""Export of models: graphs of standard operators, files in several formats, and their verification."""
