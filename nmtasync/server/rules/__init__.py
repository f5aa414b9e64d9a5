"""What the server does with a push: one small class a file, behind the interface of `base`."""
