"""Workers with the clients of others for Camunda 7, unmodified, at a real broker."""
