"""From a module to a graph, each recurrent layer kept whole."""
