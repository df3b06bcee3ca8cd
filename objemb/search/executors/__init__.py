"""Where blocks of photos are described: in processes of this machine, or on a cluster."""
