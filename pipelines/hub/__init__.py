"""Sharing on the Hub: a tree of files is written to a folder, listed, or uploaded and checked.

`tree` is what is shared, `upload` brings it to a repository (with `remote` to look at what is
there, `retries` to wait where waiting helps, `errors` to say in one line what went wrong),
`options` are the options that the commands have in common.
"""
