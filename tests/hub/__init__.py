"""A stand-in for the Hub on the loopback: enough of its HTTP API for huggingface_hub and datasets.

`state` holds repositories, `routes` answers requests from them, `faults` makes it misbehave on
request, `server` listens. A process uses it by `HF_ENDPOINT`, which must be set before it imports
huggingface_hub (`server.HubServer.environment`).
"""
