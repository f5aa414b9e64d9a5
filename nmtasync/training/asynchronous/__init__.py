"""Workers that never wait for each other, in this process or in their own."""
