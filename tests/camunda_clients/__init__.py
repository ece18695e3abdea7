"""Workers with the clients of others for Camunda 7, unmodified, and how those are installed."""
