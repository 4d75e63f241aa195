"""What stateport is measured beside, each as its own documentation says it is used."""
