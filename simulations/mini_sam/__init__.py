"""How the mini SAM was made: pre-trained on drawn images alone, and measured. Nobody needs this to run anything."""
