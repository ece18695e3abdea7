"""The Camunda 7 dialect: `/engine-rest`, over the verbs that the native dialect has too."""
