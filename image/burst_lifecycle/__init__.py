"""The lifecycle of the server: cloud, servers, volumes, images. Behind `burst-admin`."""
