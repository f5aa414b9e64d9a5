"""Workers on several hosts, which Ray starts, places and speaks to."""
