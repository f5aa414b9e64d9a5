"""The networks, all behind the one interface of `sequence_to_sequence`."""
