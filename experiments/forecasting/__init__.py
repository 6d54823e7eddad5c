"""Time-series forecasting: data, quantiles and plots of `experiments.forecast`."""
