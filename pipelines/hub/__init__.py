"""Sharing on the Hub: a tree of files is written to a folder, listed, or uploaded and verified.

`tree` contains the files, `upload` uploads them to a repository (`remote` compares contents,
`retries` handles temporary failures, `errors` produces one-line messages), and `options` are the
shared options of the commands.
"""
