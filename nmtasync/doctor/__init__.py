"""What is wrong with this machine or with a RUN, and what to do about it."""
