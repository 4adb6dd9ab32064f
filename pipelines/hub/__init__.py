"""Sharing on the Hub: a tree of files is written to a folder, listed, or uploaded and checked.

`tree` is what is shared, `folder` and `listing` show it, `upload` brings it to a repository (with
`remote` to look at what is there, `patience` to wait where waiting helps, `refusals` to say in one
line what went wrong), `options` are the options that the commands have in common.
"""
