"""What to do when workers are lost, fail, or could be more. Pure decisions: the driver carries them out."""
