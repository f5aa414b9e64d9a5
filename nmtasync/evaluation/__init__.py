"""From a trained network to translations and scores."""
