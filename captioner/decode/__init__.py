"""Images ahead of the engine, in processes of their own."""
