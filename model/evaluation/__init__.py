"""What an encoder is worth: public protocols, held-out people, corruptions, and the baselines beside it."""
