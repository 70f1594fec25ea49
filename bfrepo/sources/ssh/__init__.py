"""Other hosts, by SSH: nothing has to be installed there beyond what every system has."""
