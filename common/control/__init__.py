"""Control of both daemons by gRPC: the protos, their stubs, and how errors travel."""
