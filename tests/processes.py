"""Processes for tests that need more than one.

They are forked from a server that has imported torch and nothing else. Forked from the tests
themselves they would inherit whatever locks the threads of earlier tests held, and hang.
"""

import multiprocessing

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["torch", "accelerate", "transformers", "vse.training.run"])
