"""Ten minutes under siege: a dishonest coordinator, hospital and stranger against real daemons."""
