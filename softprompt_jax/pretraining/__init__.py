"""Pre-training: from plain text to examples of span corruption and of prefix language modelling."""
