"""D2S-VSE: the towers, the two stages, the measures."""
