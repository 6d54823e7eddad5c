"""Time-series forecasting: data, windows, quantiles and plots of `experiments.forecast`."""
