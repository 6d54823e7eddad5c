"""Analysis of recurrent networks: gradients through time, gates, and figures."""
